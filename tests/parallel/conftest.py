"""The processes that several files share."""

from __future__ import annotations

import pytest
from rank_pool import RankPool


@pytest.fixture(scope="session")
def pool():
    """Ranks that have torch already."""
    pool = RankPool()
    yield pool
    pool.close()
