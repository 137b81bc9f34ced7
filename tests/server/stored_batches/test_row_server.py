"""Cached prefixes of the rows of batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from octavo_engine.server.auth import KEY
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.intake.admission import cache_salt


def salt(own: str | None, *, key: int | None = None, runs_rows: bool = False) -> str:
    app = web.Application()
    app[CONTEXT] = SimpleNamespace(runs_rows=runs_rows)
    request = make_mocked_request("POST", "/v1/completions", app=app)
    if key is not None:
        request[KEY] = key
    return cache_salt(request, SimpleNamespace(cache_salt=own))


@pytest.mark.parametrize("own", ["0:", "0:x", "", None, "batch:"])
def test_a_row_cannot_name_the_cached_prefixes_of_a_key(own):
    rows = salt(own, runs_rows=True)
    assert rows not in {salt(each, key=0) for each in ("", "x", own)}
    assert rows == salt(own, runs_rows=True)
