"""How many pages each KV group gets, and how long a sequence may be, out of a number of bytes. Arithmetic only."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from octavo_engine.core.block_manager import window_peak
from octavo_engine.errors import ConfigError

if TYPE_CHECKING:
    from octavo_models.spec import KVGroup, KVLayout

MIB = 1 << 20


def split_capacity(
    layout: KVLayout,
    kv_bytes: int,
    max_model_len: int,
    max_num_batched_tokens: int,
    max_num_seqs: int | None = None,
) -> tuple[int, ...]:
    """Pages of each group, the null page included, so that all groups run out together.

    They run out together for sequences of `max_model_len`; never more than `max_num_seqs` of those can use.

    Raises:
        ConfigError: not even one sequence fits; the message says what would.
    """
    needed = sequence_bytes(layout, max_model_len, max_num_batched_tokens)
    if needed > kv_bytes:
        fits = longest_sequence(layout, kv_bytes, max_model_len, max_num_batched_tokens)
        remedy = f"set --max-model-len {fits} or less, or " if fits else ""
        raise ConfigError(
            f"the KV cache of one sequence of {max_model_len} tokens takes {needed / MIB:.1f} MiB ({needed} bytes), "
            f"and {max(0, kv_bytes) / MIB:.1f} MiB are available for it: {remedy}give it more memory with "
            f"--kv-cache-memory-bytes {needed}"
        )
    demands = [_demand(group, layout.block_size, max_model_len, max_num_batched_tokens) for group in layout.groups]
    fixed = sum((once + 1) * group.page_bytes for (_, once), group in zip(demands, layout.groups, strict=True))
    each = sum(steady * group.page_bytes for (steady, _), group in zip(demands, layout.groups, strict=True))
    sequences = Fraction(kv_bytes - fixed, each)
    if max_num_seqs is not None:
        sequences = min(sequences, Fraction(max_num_seqs))
    return tuple(int(sequences * steady) + once + 1 for steady, once in demands)


def sequence_bytes(layout: KVLayout, num_tokens: int, max_num_batched_tokens: int) -> int:
    """Bytes of KV for one sequence of `num_tokens` alone, the null pages included."""
    return sum(
        (sum(_demand(group, layout.block_size, num_tokens, max_num_batched_tokens)) + 1) * group.page_bytes
        for group in layout.groups
    )


def longest_sequence(layout: KVLayout, kv_bytes: int, limit: int, max_num_batched_tokens: int) -> int:
    """The most tokens, up to `limit`, that one sequence can have in `kv_bytes`; 0 if not even a page fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if sequence_bytes(layout, middle, max_num_batched_tokens) <= kv_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _demand(group: KVGroup, block_size: int, num_tokens: int, max_num_batched_tokens: int) -> tuple[int, int]:
    """Pages that each sequence of `num_tokens` holds, and pages that the step's prefill takes besides, once for all."""
    whole = -(-num_tokens // block_size)
    if group.window is None:
        return whole, 0
    steady = min(whole, window_peak(group.window, 1, block_size))
    peak = min(whole, window_peak(group.window, min(num_tokens, max_num_batched_tokens), block_size))
    return steady, peak - steady
