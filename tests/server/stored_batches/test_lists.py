"""The queries of lists of files and batches."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.batches import paged


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1" + "0" * 9, "000000001" + "0" * 9, "000000010" * 1000])
def test_a_limit_that_is_no_number_within_the_bounds_is_refused(limit):
    """All of its digits count."""
    with pytest.raises(RequestError, match="it is a number of 1 to 100"):
        paged(make_mocked_request("GET", f"/v1/files?limit={limit}"), {"a": 1}, limit=10, most=100)
