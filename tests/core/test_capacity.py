"""The number of blocks that each group gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_engine.core.capacity import longest_sequence, sequence_bytes, split_blocks, split_capacity
from octavo_engine.errors import ConfigError
from octavo_models.spec import KVGroup, KVLayout

FULL = KVGroup("full", (0,), 100)
WINDOW = KVGroup("window", (1,), 500, window=64)


def test_one_group_gets_all_of_it() -> None:
    """The null block is among the blocks and costs as much as any."""
    assert split_capacity(KVLayout(16, (FULL,)), 1000, 64, 2048) == (10,)


def test_groups_run_out_together_at_the_full_length() -> None:
    """A full group needs 64 blocks for a sequence of 1024 tokens, a window of 64 at most five."""
    full, window = split_capacity(KVLayout(16, (FULL, WINDOW)), 1_000_000, 1024, 16)
    assert (full - 1) // 64 == (window - 1 - 1) // 5  # one block once for the chunk that a step computes
    assert 0.99e6 < full * 100 + window * 500 <= 1e6


def test_no_more_blocks_than_all_sequences_can_use() -> None:
    """Memory that nothing could fill is not taken."""
    layout = KVLayout(16, (FULL,))
    assert split_capacity(layout, 1 << 40, 64, 2048, max_num_seqs=3) == (13,)


def test_too_little_memory_names_the_numbers_and_the_remedy() -> None:
    """What is needed, what there is, what would fit, and the flag that gives it more."""
    layout = KVLayout(16, (KVGroup("full", (0,), 1 << 20),))
    with pytest.raises(ConfigError) as caught:
        split_capacity(layout, 10 << 20, 1024, 2048)
    assert str(caught.value) == (
        "the KV cache of one sequence of 1024 tokens takes 65.0 MiB, and 10.0 MiB are available for it: set "
        "--max-model-len 144 or less, or give it more memory with --kv-cache-memory-bytes 68157440"
    )
    assert split_capacity(layout, 10 << 20, 144, 2048) == (10,)
    assert split_capacity(layout, 68157440, 1024, 2048) == (65,)


def test_memory_for_no_block_suggests_no_length() -> None:
    """A length of 0 would be no remedy."""
    with pytest.raises(ConfigError, match=r"available for it: give it more memory with"):
        split_capacity(KVLayout(16, (FULL,)), 50, 1024, 2048)


def test_override_counts_blocks_of_the_first_group() -> None:
    """The others follow in proportion."""
    assert split_blocks(KVLayout(16, (FULL,)), 77, 64, 2048) == (77,)
    full, window = split_blocks(KVLayout(16, (FULL, WINDOW)), 641, 1024, 16)
    assert (full, window) == (641, 52)


def test_override_too_small_for_one_sequence_is_refused() -> None:
    """With the number that would do."""
    with pytest.raises(ConfigError, match=r"--num-gpu-blocks-override 4 is too small.*takes 5 blocks"):
        split_blocks(KVLayout(16, (FULL,)), 4, 64, 2048)


@given(
    windows=st.lists(st.sampled_from([None, 1, 7, 64]), min_size=1, max_size=3),
    block_size=st.sampled_from([1, 4, 16]),
    kv_bytes=st.integers(0, 5000),
    batched=st.integers(1, 300),
)
def test_longest_sequence_fits_and_the_next_does_not(windows, block_size, kv_bytes, batched) -> None:
    """The split for it stays within the bytes."""
    groups = tuple(KVGroup("full" if w is None else "window", (i,), i + 3, w) for i, w in enumerate(windows))
    layout = KVLayout(block_size, groups)
    longest = longest_sequence(layout, kv_bytes, 400, batched)
    if longest:
        blocks = split_capacity(layout, kv_bytes, longest, batched)
        assert sum(n * g.block_bytes for n, g in zip(blocks, groups, strict=True)) <= kv_bytes
    if longest < 400:
        assert sequence_bytes(layout, longest + 1, batched) > kv_bytes
