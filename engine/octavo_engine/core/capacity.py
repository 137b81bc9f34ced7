"""The number of blocks of each KV group, and the longest sequence, for a number of bytes. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from octavo_engine.core.block_manager import window_peak
from octavo_engine.errors import ConfigError

if TYPE_CHECKING:
    from octavo_models.spec import KVGroup, KVLayout

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Demand:
    """Blocks of one group: `steady` ones of each sequence, and those needed `once`, however many sequences run.

    Once are needed the null block and, in a group with a window, the chunk of a prompt that a step computes in addition
    to the window.
    """

    steady: int
    once: int
    block_bytes: int


def split_capacity(
    layout: KVLayout,
    kv_bytes: int,
    max_model_len: int,
    max_num_batched_tokens: int,
    max_num_seqs: int | None = None,
) -> tuple[int, ...]:
    """Blocks of each group, the null block included, so that all groups run out together.

    They run out together for sequences of `max_model_len`; never more than `max_num_seqs` of those can use. None of a
    model without KV blocks.

    Raises:
        ConfigError: not even one sequence fits; the message says what would.
    """
    if not layout.groups:
        return ()
    demands = _demands(layout, max_model_len, max_num_batched_tokens)
    needed = sequence_bytes(layout, max_model_len, max_num_batched_tokens)
    if needed > kv_bytes:
        fits = longest_sequence(layout, kv_bytes, max_model_len, max_num_batched_tokens)
        remedy = f"set --max-model-len {fits} or less, or " if fits else ""
        raise ConfigError(
            f"the KV cache of one sequence of {max_model_len} tokens takes {needed / MIB:.1f} MiB, and "
            f"{max(0, kv_bytes) / MIB:.1f} MiB are available for it: {remedy}give it more memory with "
            f"--kv-cache-memory-bytes {needed}"
        )
    once = sum(d.once * d.block_bytes for d in demands)
    return _blocks(demands, Fraction(kv_bytes - once, sum(d.steady * d.block_bytes for d in demands)), max_num_seqs)


def split_blocks(layout: KVLayout, num_blocks: int, max_model_len: int, max_num_batched_tokens: int) -> tuple[int, ...]:
    """Blocks of each group when the first one has `num_blocks`, by the same rule as `split_capacity`.

    Raises:
        ConfigError: not even one sequence fits.
    """
    demands = _demands(layout, max_model_len, max_num_batched_tokens)
    first = demands[0]
    if num_blocks < first.steady + first.once:
        raise ConfigError(
            f"--num-gpu-blocks-override {num_blocks} is too small: one sequence of {max_model_len} tokens takes "
            f"{first.steady + first.once} blocks of {layout.block_size} tokens, the null block included; set at least "
            "that, or a smaller --max-model-len"
        )
    return _blocks(demands, Fraction(num_blocks - first.once, first.steady), None)


def sequence_bytes(layout: KVLayout, num_tokens: int, max_num_batched_tokens: int) -> int:
    """Bytes of KV for one sequence of `num_tokens` alone, the null blocks included."""
    return sum((d.steady + d.once) * d.block_bytes for d in _demands(layout, num_tokens, max_num_batched_tokens))


def longest_sequence(layout: KVLayout, kv_bytes: int, limit: int, max_num_batched_tokens: int) -> int:
    """The most tokens, up to `limit`, that one sequence can have in `kv_bytes`; 0 if not even a block fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if sequence_bytes(layout, middle, max_num_batched_tokens) <= kv_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _demands(layout: KVLayout, num_tokens: int, max_num_batched_tokens: int) -> list[Demand]:
    return [_demand(group, layout.block_size, num_tokens, max_num_batched_tokens) for group in layout.groups]


def _demand(group: KVGroup, block_size: int, num_tokens: int, max_num_batched_tokens: int) -> Demand:
    whole = -(-num_tokens // block_size)
    if group.window is None:
        return Demand(whole, 1, group.block_bytes)
    steady = min(whole, window_peak(group.window, 1, block_size))
    peak = min(whole, window_peak(group.window, min(num_tokens, max_num_batched_tokens), block_size))
    return Demand(steady, peak - steady + 1, group.block_bytes)


def _blocks(demands: list[Demand], sequences: Fraction, max_num_seqs: int | None) -> tuple[int, ...]:
    if max_num_seqs is not None:
        sequences = min(sequences, Fraction(max_num_seqs))
    return tuple(int(sequences * d.steady) + d.once for d in demands)
