"""Blocks in host memory for preempted sequences, and the rule that decides between swapping and recomputing.

Works on counts, block numbers and seconds; the block manager decides which blocks of a sequence to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo_engine.core.block_pool import BlockPool

SMOOTHING = 0.2  # weight of the newest step
LEAST_TOKENS = 64  # the overhead dominates the time of smaller steps


@dataclass(frozen=True, slots=True)
class Swapped:
    """A preempted sequence's blocks: `blocks[g]` in host memory are its table's entries from `first[g]` on."""

    num_tokens: int  # whose KV they hold
    first: tuple[int, ...]
    blocks: tuple[list[int], ...]


class HostBlocks:
    """Blocks in host memory, one pool for each KV group. Block 0 of each is the null block, as on the device."""

    def __init__(self, num_blocks: tuple[int, ...]) -> None:
        self.pools = tuple(BlockPool(n) for n in num_blocks)
        self.num_holders = 0

    def take(self, counts: Sequence[int]) -> tuple[list[int], ...] | None:
        """Allocate `counts[g]` blocks of each group for one holder; None (and none allocated) if a group has too few."""
        if any(pool.num_free < count for pool, count in zip(self.pools, counts, strict=True)):
            return None
        self.num_holders += 1
        return tuple([pool.take() for _ in range(count)] for pool, count in zip(self.pools, counts, strict=True))

    def release(self, blocks: tuple[list[int], ...]) -> None:
        """Free the blocks of one `take`."""
        self.num_holders -= 1
        for pool, held in zip(self.pools, blocks, strict=True):
            for block in held:
                pool.release(block)

    @property
    def usage(self) -> float:
        """Blocks in use / all, of the group that is nearest to its end; 0 to 1."""
        return max((pool.num_in_use / pool.total for pool in self.pools if pool.total), default=0.0)

    def check(self) -> None:
        """Assert that no block is lost or held twice."""
        for pool in self.pools:
            pool.check()


class SwapRule:
    """Swaps a sequence if moving its blocks out and in again is faster than recomputing them, by measured times.

    `block_seconds[g]`: one block of group g out and in again. Until a step large enough has been measured, swapping
    counts as faster: a copy costs microseconds a token, a forward rarely less than ten times as much.

    A move that would take longer than `max_step_seconds` is replaced by recomputing: a prefill is cut into steps, a
    move is not. 0: no limit.
    """

    def __init__(self, block_seconds: Sequence[float], max_step_seconds: float = 0.0) -> None:
        self._block_seconds = tuple(block_seconds)
        self._longest = max_step_seconds or float("inf")
        self._token_seconds: float | None = None

    def note_step(self, num_tokens: int, seconds: float) -> None:
        """A step has computed `num_tokens` in `seconds`."""
        if num_tokens < LEAST_TOKENS:
            return
        rate = seconds / num_tokens
        known = self._token_seconds
        self._token_seconds = rate if known is None else known + SMOOTHING * (rate - known)

    def fits(self, num_blocks: Sequence[int]) -> bool:
        """True if a step may move `num_blocks[g]` blocks of each group, in either direction."""
        return self._seconds(num_blocks) <= self._longest

    def pays(self, num_tokens: int, num_blocks: Sequence[int]) -> bool:
        """True if moving `num_blocks[g]` blocks of each group is faster than recomputing `num_tokens` tokens."""
        return self._token_seconds is None or self._seconds(num_blocks) < num_tokens * self._token_seconds

    def _seconds(self, num_blocks: Sequence[int]) -> float:
        return sum(n * seconds for n, seconds in zip(num_blocks, self._block_seconds, strict=True))
