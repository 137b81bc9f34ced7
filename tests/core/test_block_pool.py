"""One group's blocks: free, cached or in use."""

from __future__ import annotations

import pytest

from octavo_engine.core.block_pool import BlockPool


def test_null_block_is_never_handed_out() -> None:
    """Block 0 is outside of the count."""
    pool = BlockPool(5)
    assert pool.total == 4
    assert sorted(pool.take() for _ in range(4)) == [1, 2, 3, 4]
    assert pool.num_free == 0
    pool.check()


def test_block_with_a_digest_outlives_its_user() -> None:
    """Such a block can be found and shared again, and counts as free meanwhile."""
    pool = BlockPool(3)
    block = pool.take()
    pool.remember(block, b"a")
    pool.release(block)
    assert (pool.num_free, pool.num_cached, pool.num_in_use) == (2, 1, 0)
    assert pool.find(b"a") == block
    pool.share(block)
    assert (pool.num_free, pool.num_cached, pool.num_in_use) == (1, 0, 1)
    pool.check()


def test_shared_block_is_free_after_its_last_user() -> None:
    """Each user releases once."""
    pool = BlockPool(2)
    block = pool.take()
    pool.remember(block, b"a")
    pool.share(block)
    pool.release(block)
    assert pool.num_in_use == 1
    pool.release(block)
    assert pool.num_in_use == 0
    pool.check()


def test_blank_blocks_go_before_cached_ones_and_cached_ones_by_last_use() -> None:
    """The least recently used content is evicted first, and is not found any more."""
    pool = BlockPool(4)
    first, second, blank = pool.take(), pool.take(), pool.take()
    pool.remember(first, b"first")
    pool.remember(second, b"second")
    for block in (first, second, blank):
        pool.release(block)
    pool.share(first)
    pool.release(first)  # now `second` is the least recently used
    assert [pool.take() for _ in range(3)] == [blank, second, first]
    assert pool.find(b"first") is None
    assert pool.find(b"second") is None
    pool.check()


def test_content_known_already_keeps_its_first_block() -> None:
    """A second block with the same content stays anonymous, and is blank once released."""
    pool = BlockPool(3)
    first, second = pool.take(), pool.take()
    pool.remember(first, b"a")
    pool.remember(second, b"a")
    assert pool.find(b"a") == first
    pool.release(second)
    assert pool.num_cached == 0
    pool.check()


@pytest.mark.parametrize("used", [True, False])
def test_forgotten_block_is_not_found(used) -> None:
    """This holds for used and for unused blocks."""
    pool = BlockPool(3)
    block = pool.take()
    pool.remember(block, b"a")
    if not used:
        pool.release(block)
    pool.forget(block)
    assert pool.find(b"a") is None
    assert pool.num_cached == 0
    pool.check()


def test_forgetting_unused_blocks_spares_those_in_use() -> None:
    """The number of forgotten blocks is returned."""
    pool = BlockPool(4)
    used, unused = pool.take(), pool.take()
    pool.remember(used, b"used")
    pool.remember(unused, b"unused")
    pool.release(unused)
    assert pool.forget_unused() == 1
    assert pool.find(b"used") == used
    assert pool.find(b"unused") is None
    pool.check()


def test_check_notices_a_lost_block() -> None:
    """The books are compared block by block."""
    pool = BlockPool(4)
    pool._free.pop()
    with pytest.raises(AssertionError, match="lost"):
        pool.check()
