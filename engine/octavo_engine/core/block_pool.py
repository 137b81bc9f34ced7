"""One KV group's blocks: which are free, which are cached but unused, which are in use, and by how many sequences.

Works on block numbers and digests of contents, independent of sequences, tokens and windows. Every operation is O(1).
"""

from __future__ import annotations

from collections import OrderedDict

NULL_BLOCK = 0


class BlockPool:
    """Blocks 1 … num_blocks - 1 of one group; block 0 is the null block, which no sequence owns.

    Every block is in exactly one of three states: free (no content worth keeping), cached (content has a digest,
    no sequence uses it; evicted in order of last use), in use (reference count above 0; it may have a digest too).
    """

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks - 1
        self._free = list(range(self.total, 0, -1))  # a stack: low blocks first
        self._evictable: OrderedDict[int, None] = OrderedDict()  # cached and unused, least recently used first
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be had: the free ones and those that can be evicted."""
        return len(self._free) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Blocks that have reusable contents and no user."""
        return len(self._evictable)

    @property
    def num_in_use(self) -> int:
        return self.total - len(self._free) - len(self._evictable)

    def find(self, digest: bytes) -> int | None:
        """The block with this content, in use or cached."""
        return self._block_of.get(digest)

    def is_unused(self, block: int) -> bool:
        return not self._references[block]

    def take(self) -> int:
        """A block with no content, for one user. The caller has checked `num_free`."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._evictable.popitem(last=False)
            self._drop_digest(block)
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add a user to a block that `find` returned."""
        if not self._references[block]:
            del self._evictable[block]
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Remove a user from a block. Without users it stays cached if it has a digest, else it is free."""
        self._references[block] -= 1
        if self._references[block]:
            return
        if self._digests[block] is None:
            self._free.append(block)
        else:
            self._evictable[block] = None

    def remember(self, block: int, digest: bytes) -> None:
        """Give a block in use its digest. A content that is already known keeps its first block."""
        if digest not in self._block_of:
            self._block_of[digest] = block
            self._digests[block] = digest

    def forget(self, block: int) -> None:
        """Drop the digest of a block whose content is invalid: no look-up finds it any more."""
        if self._digests[block] is None:
            return
        self._drop_digest(block)
        if not self._references[block]:
            del self._evictable[block]
            self._free.append(block)

    def forget_unused(self) -> int:
        """Drop every cached block without a user. Returns their number."""
        count = len(self._evictable)
        while self._evictable:
            block, _ = self._evictable.popitem()
            self._drop_digest(block)
            self._free.append(block)
        return count

    def check(self) -> None:
        """Assert that free + cached + in use == total, block by block. O(total): for tests and debugging."""
        free, cached = set(self._free), set(self._evictable)
        used = {block for block in range(1, self.total + 1) if self._references[block]}
        assert len(free) == len(self._free), "a block is free twice"
        assert len(free | cached | used) == len(free) + len(cached) + len(used), "a block is in two states"
        assert len(free) + len(cached) + len(used) == self.total, "a block is lost"
        assert all(self._references[block] > 0 for block in used), "a block was released too often"
        assert self._references[NULL_BLOCK] == 0, "the null block has a user"
        assert all(self._digests[block] is None for block in free), "a free block has a digest"
        digests = {digest: block for block, digest in enumerate(self._digests) if digest is not None}
        assert digests == self._block_of, "digests and blocks disagree"
        assert all(self._digests[block] is not None for block in cached), "a cached block has no digest"

    def _drop_digest(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._block_of[digest]
            self._digests[block] = None
