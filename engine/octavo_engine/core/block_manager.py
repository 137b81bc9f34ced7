"""Block tables: which block holds which tokens of which sequence, one pool of blocks for each KV group.

Owns the life of every block: found by content, allocated, filled, left behind by a window, swapped to host memory and
back, freed. Independent of budgets and of the order in which sequences run. A sequence's blocks change only here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo_engine.core.block_hashes import extend_chain
from octavo_engine.core.block_pool import NULL_BLOCK, BlockPool
from octavo_engine.core.outputs import KVOps
from octavo_engine.core.request import NEVER, Sequence
from octavo_engine.core.swapping import HostBlocks, Swapped

if TYPE_CHECKING:
    from octavo_engine.core.swapping import SwapRule
    from octavo_models.spec import KVLayout

Block = tuple[int, int]  # (group, block)


@dataclass(frozen=True, slots=True)
class Prefix:
    """Blocks that already hold the first `num_tokens` tokens of a sequence; 0 where a window does not look.

    With `swapped` they are still in host memory, and the tables end before them.
    """

    num_tokens: int
    tables: tuple[list[int], ...]
    swapped: bool = False


class BlockManager:
    """The blocks of all groups.

    `max_chunk` is the most tokens that a sequence computes in one step: a window group holds the window and one chunk.
    Without `num_host_blocks` nothing is swapped; without a rule all that can be is.
    """

    def __init__(
        self,
        layout: KVLayout,
        num_blocks: tuple[int, ...],
        *,
        max_chunk: int,
        caching: bool,
        num_host_blocks: tuple[int, ...] = (),
        swap_rule: SwapRule | None = None,
    ) -> None:
        self.block_size = layout.block_size
        self.pools = tuple(BlockPool(n) for n in num_blocks)
        self.host = HostBlocks(num_host_blocks) if num_host_blocks else None
        self._rule = swap_rule
        self._swap_in: list[tuple[int, int, int]] = []
        self._swap_out: list[tuple[int, int, int]] = []
        self._windows = tuple(group.window for group in layout.groups)
        self._groups = tuple(zip(self.pools, self._windows, strict=True))
        self._max_chunk = max_chunk
        self._caching = caching

    def lookup(self, seq: Sequence) -> Prefix:
        """The tokens that need not be computed: those swapped out, or the longest cached prefix if it is no shorter."""
        prefix = self._cached(seq)
        swapped = seq.swapped
        if swapped is None or swapped.num_tokens <= prefix.num_tokens:
            return prefix
        return Prefix(swapped.num_tokens, tuple([NULL_BLOCK] * first for first in swapped.first), swapped=True)

    def _cached(self, seq: Sequence) -> Prefix:
        """The longest cached prefix of whole blocks that leaves at least one token to compute.

        A full group needs every block of it, a window group the blocks of its last window - 1 tokens.
        """
        tables: tuple[list[int], ...] = tuple([] for _ in self.pools)
        if not (seq.use_prefix_cache and (self._caching or seq.forks)):
            return Prefix(0, tables)
        num_blocks = (len(seq.token_ids) - 1) // self.block_size
        extend_chain(seq.digests, seq.root, seq.token_ids, num_blocks, self.block_size)
        digests = seq.digests
        for pool, window in self._groups:
            if window is None:
                num_blocks = _leading(pool, digests, num_blocks)
        settled = False
        while not settled and num_blocks:  # a group that shortens the prefix moves every other group's window
            settled = True
            for pool, window in self._groups:
                if window is not None:
                    shorter = _last_window(pool, digests, num_blocks, self._window_blocks(window))
                    settled = settled and shorter == num_blocks
                    num_blocks = shorter
        for table, (pool, window) in zip(tables, self._groups, strict=True):
            first = 0 if window is None else max(0, num_blocks - self._window_blocks(window))
            table.extend([NULL_BLOCK] * first)
            for digest in digests[first:num_blocks]:
                block = pool.find(digest)
                assert block is not None
                table.append(block)
        return Prefix(num_blocks * self.block_size, tables)

    def admit(self, seq: Sequence, prefix: Prefix, num_new: int) -> bool:
        """Allocate the prefix of `seq` and blocks for its next `num_new` tokens, if all its known tokens can be computed.

        Full groups get blocks for every known token at once, so that a prefill that has begun does not run out of
        them; window groups get blocks for the first chunk, once there are enough for the largest one.
        """
        block_size = self.block_size
        num_tokens = len(seq.token_ids)
        end = prefix.num_tokens + num_new
        wanted: list[int] = []
        for (pool, window), table in zip(self._groups, prefix.tables, strict=True):
            need = -(-num_tokens // block_size) - len(table)
            if window is None:
                wanted.append(need)
            else:
                wanted.append(-(-end // block_size) - len(table))
                chunk = min(num_tokens - prefix.num_tokens, self._max_chunk)
                need = min(need, window_peak(window, chunk, block_size) - sum(1 for block in table if block))
            revived = sum(1 for block in table if block and pool.is_unused(block))
            if pool.num_free - revived < need:
                return False
        for pool, table, count in zip(self.pools, prefix.tables, wanted, strict=True):
            for block in table:
                if block:
                    pool.share(block)
            table.extend([pool.take() for _ in range(count)])
        if seq.swapped is not None:
            if prefix.swapped:
                self._restore(seq, seq.swapped, prefix.tables)
            self.drop_swapped(seq)
        seq.tables = prefix.tables
        seq.first_blocks = [next((i for i, block in enumerate(table) if block), 0) for table in prefix.tables]
        seq.num_computed = prefix.num_tokens
        seq.capacity = self._capacity(seq)
        seq.num_filled = prefix.num_tokens // block_size
        seq.next_fill = (seq.num_filled + 1) * block_size if self._caching or seq.forks else NEVER
        return True

    def _capacity(self, seq: Sequence) -> int:
        """The number of tokens that its tables hold; of a model without KV blocks, any."""
        return min(map(len, seq.tables), default=NEVER) * self.block_size

    def can_allocate(self, num_tokens: int) -> bool:
        """True if there are blocks for a sequence of `num_tokens`, none of them cached."""
        num_blocks = -(-num_tokens // self.block_size)
        return all(window is not None or pool.num_free >= num_blocks for pool, window in self._groups)

    def extend(self, seq: Sequence, end: int) -> tuple[list[int], ...] | None:
        """Allocate blocks for tokens up to `end`: the new ones of each group, or None (and none allocated) if one runs out.

        Blocks that no query from `num_computed` on can see are freed first.
        """
        block_size = self.block_size
        num_blocks = -(-end // block_size)
        enough = True
        for index, (pool, window) in enumerate(self._groups):
            if window is not None:
                self._leave_behind(seq, index, max(0, seq.num_computed - window + 1) // block_size)
            enough = enough and pool.num_free >= num_blocks - len(seq.tables[index])
        if not enough:
            return None
        added = []
        for pool, table in zip(self.pools, seq.tables, strict=True):
            blocks = [pool.take() for _ in range(num_blocks - len(table))]
            table.extend(blocks)
            added.append(blocks)
        seq.capacity = self._capacity(seq)
        return tuple(added)

    def fill(self, seq: Sequence, end: int) -> None:
        """Cache the blocks that are full once `end` tokens are computed: from now on others may share them."""
        block_size = self.block_size
        num_blocks = end // block_size
        extend_chain(seq.digests, seq.root, seq.token_ids, num_blocks, block_size)
        for pool, table in zip(self.pools, seq.tables, strict=True):
            for i in range(seq.num_filled, num_blocks):
                pool.remember(table[i], seq.digests[i])
        seq.num_filled = num_blocks
        seq.next_fill = (num_blocks + 1) * block_size

    def free(self, seq: Sequence) -> None:
        """Free all blocks; the last ones are evicted first, because a prefix is reused more often than its continuation."""
        for pool, table, first in zip(self.pools, seq.tables, seq.first_blocks, strict=False):
            for block in reversed(table[first:]):
                pool.release(block)
        seq.tables = ()
        seq.first_blocks = []
        seq.num_computed = seq.capacity = seq.num_filled = 0
        seq.next_fill = NEVER

    def swap_out(self, seq: Sequence) -> bool:
        """Copy what `seq` has computed to host memory, if that has capacity and is faster; the device blocks stay allocated.

        Blocks that no later query sees are left out. The next `take_kv_ops` returns the moves.
        """
        if self.host is None or not seq.num_computed:
            return False
        end = -(-seq.num_computed // self.block_size)
        first = tuple(
            0 if window is None else max(0, seq.num_computed - window + 1) // self.block_size
            for window in self._windows
        )
        counts = [end - at for at in first]
        if self._rule is not None and not self._rule.pays(seq.num_computed, counts):
            return False
        if not self._may_move(counts):
            return False
        blocks = self.host.take(counts)
        if blocks is None:
            return False
        seq.swapped = Swapped(seq.num_computed, first, blocks)
        self._swap_out += (
            (group, table[at + k], block)
            for group, (table, at, held) in enumerate(zip(seq.tables, first, blocks, strict=True))
            for k, block in enumerate(held)
        )
        return True

    def may_move(self, seq: Sequence) -> bool:
        """True if the swapped blocks of `seq` can be swapped in with the step that is being scheduled."""
        return seq.swapped is None or self._may_move([len(blocks) for blocks in seq.swapped.blocks])

    def _may_move(self, counts: list[int]) -> bool:
        moved = [0] * len(counts)
        for group, _, _ in (*self._swap_in, *self._swap_out):
            moved[group] += 1
        return self._rule is None or self._rule.fits([a + b for a, b in zip(counts, moved, strict=True)])

    def drop_swapped(self, seq: Sequence) -> None:
        """Free the blocks of `seq` in host memory, if it has any."""
        if seq.swapped is not None:
            assert self.host is not None
            self.host.release(seq.swapped.blocks)
            seq.swapped = None

    def take_kv_ops(self) -> KVOps:
        """The moves of blocks since the last call; they come before the step that is being scheduled."""
        if not (self._swap_in or self._swap_out):
            return KVOps()
        ops = KVOps(swap_in=tuple(self._swap_in), swap_out=tuple(self._swap_out))
        self._swap_in.clear()
        self._swap_out.clear()
        return ops

    def blocks_of(self, seq: Sequence, first: int, end: int) -> list[Block]:
        """The blocks that hold the tokens first … end - 1."""
        if end == first + 1:
            i = first // self.block_size
            return [(g, table[i]) for g, table in enumerate(seq.tables)]
        blocks = slice(first // self.block_size, -(-end // self.block_size))
        return [(g, block) for g, table in enumerate(seq.tables) for block in table[blocks] if block]

    def forget(self, blocks: Iterable[Block]) -> None:
        """Drop the digests of these blocks, whose contents are invalid: no look-up finds them any more."""
        for group, block in blocks:
            self.pools[group].forget(block)

    def forget_unused(self) -> int:
        """Drop the cached blocks that no sequence uses. Returns their number."""
        return sum(pool.forget_unused() for pool in self.pools)

    @property
    def usage(self) -> float:
        """Blocks in use / all, of the group that is nearest to its end; 0 to 1."""
        return max((pool.num_in_use / pool.total if pool.total else 0.0 for pool in self.pools), default=0.0)

    def check(self) -> None:
        """Assert that no block is lost or held twice, in any group."""
        for pool in self.pools:
            pool.check()
        if self.host is not None:
            self.host.check()

    def _restore(self, seq: Sequence, swapped: Swapped, tables: tuple[list[int], ...]) -> None:
        """Schedule the swap-in of `swapped` to the blocks in `tables`; whole blocks can be shared again."""
        num_whole = swapped.num_tokens // self.block_size
        for group, (pool, table) in enumerate(zip(self.pools, tables, strict=True)):
            first = swapped.first[group]
            self._swap_in += ((group, block, table[first + k]) for k, block in enumerate(swapped.blocks[group]))
            for i in range(first, min(num_whole, len(seq.digests))):
                pool.remember(table[i], seq.digests[i])

    def _window_blocks(self, window: int) -> int:
        """The number of blocks that hold the last window - 1 tokens before a block's edge."""
        return -(-(window - 1) // self.block_size)

    def _leave_behind(self, seq: Sequence, index: int, first: int) -> None:
        table, pool = seq.tables[index], self.pools[index]
        for i in range(seq.first_blocks[index], min(first, len(table))):
            pool.release(table[i])
            table[i] = NULL_BLOCK
        seq.first_blocks[index] = max(seq.first_blocks[index], min(first, len(table)))


def window_peak(window: int, chunk: int, block_size: int) -> int:
    """The most blocks that a window group holds while it computes `chunk` tokens in one step, for any alignment."""
    return (window - 1 + chunk + block_size - 2) // block_size + 1


def _leading(pool: BlockPool, digests: list[bytes], limit: int) -> int:
    for i in range(limit):
        if pool.find(digests[i]) is None:
            return i
    return limit


def _last_window(pool: BlockPool, digests: list[bytes], limit: int, run: int) -> int:
    """The largest n <= limit such that blocks n - run … n - 1 (those that exist) are all there."""
    candidate = limit
    i = limit - 1
    while i >= 0 and i >= candidate - run:
        if pool.find(digests[i]) is None:
            candidate = i
        i -= 1
    return candidate
