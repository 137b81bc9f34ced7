"""One KV group's pages: which are free, which are cached but unused, which are in use, and by how many sequences.

Knows page numbers and digests of contents; knows nothing of sequences, tokens or windows. Every operation is O(1).
"""

from __future__ import annotations

from collections import OrderedDict

NULL_PAGE = 0


class BlockPool:
    """Pages 1 … num_blocks - 1 of one group; page 0 is the null page and belongs to nobody.

    Every page is in exactly one of three states: free (no content worth keeping), cached (content has a digest,
    no sequence uses it; evicted in order of last use), in use (reference count above 0; it may have a digest too).
    """

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks - 1
        self._free = list(range(self.total, 0, -1))  # a stack: low pages first
        self._evictable: OrderedDict[int, None] = OrderedDict()  # cached and unused, least recently used first
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._page_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Pages that can be had: the free ones and those that can be evicted."""
        return len(self._free) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Pages that hold a reusable content and that nobody uses."""
        return len(self._evictable)

    @property
    def num_in_use(self) -> int:
        return self.total - len(self._free) - len(self._evictable)

    def find(self, digest: bytes) -> int | None:
        """The page with this content, in use or cached."""
        return self._page_of.get(digest)

    def is_unused(self, page: int) -> bool:
        return not self._references[page]

    def take(self) -> int:
        """A page with no content, for one user. The caller has checked `num_free`."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._evictable.popitem(last=False)
            self._drop_digest(page)
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more user of a page that `find` returned."""
        if not self._references[page]:
            del self._evictable[page]
        self._references[page] += 1

    def release(self, page: int) -> None:
        """One user less. The last one's page is kept for its content if it has a digest."""
        self._references[page] -= 1
        if self._references[page]:
            return
        if self._digests[page] is None:
            self._free.append(page)
        else:
            self._evictable[page] = None

    def remember(self, page: int, digest: bytes) -> None:
        """Give a page in use its digest. A content that is already known keeps its first page."""
        if digest not in self._page_of:
            self._page_of[digest] = page
            self._digests[page] = digest

    def forget(self, page: int) -> None:
        """Its content is not what its digest says: nobody may find it any more."""
        if self._digests[page] is None:
            return
        self._drop_digest(page)
        if not self._references[page]:
            del self._evictable[page]
            self._free.append(page)

    def forget_unused(self) -> int:
        """Drop every cached page that nobody uses; how many there were."""
        count = len(self._evictable)
        while self._evictable:
            page, _ = self._evictable.popitem()
            self._drop_digest(page)
            self._free.append(page)
        return count

    def check(self) -> None:
        """Assert that free + cached + in use == total, page by page. O(total): for tests and debugging."""
        free, cached = set(self._free), set(self._evictable)
        used = {page for page in range(1, self.total + 1) if self._references[page]}
        assert len(free) == len(self._free), "a block is free twice"
        assert len(free | cached | used) == len(free) + len(cached) + len(used), "a block is in two states"
        assert len(free) + len(cached) + len(used) == self.total, "a block is lost"
        assert all(self._references[page] > 0 for page in used), "a block was released too often"
        assert self._references[NULL_PAGE] == 0, "the null block has a user"
        assert all(self._digests[page] is None for page in free), "a free block has a digest"
        digests = {digest: page for page, digest in enumerate(self._digests) if digest is not None}
        assert digests == self._page_of, "digests and blocks disagree"
        assert all(self._digests[page] is not None for page in cached), "a cached block has no digest"

    def _drop_digest(self, page: int) -> None:
        digest = self._digests[page]
        if digest is not None:
            del self._page_of[digest]
            self._digests[page] = None
