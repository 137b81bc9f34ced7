"""A counter that the engine core counts up as it works, in memory that its server reads: slow and dead differ by it.

Knows nothing of what is counted. The core's own messages would not do: in the middle of a step it sends none.
"""

from __future__ import annotations

import mmap
import os

SIZE = mmap.PAGESIZE


class Heartbeat:
    """64 bits of memory shared by all processes that have its descriptor; one of them writes."""

    def __init__(self, fd: int) -> None:
        """Take over a descriptor that `create` has made, here or in the parent process."""
        self.fd = fd
        self.beats = memoryview(mmap.mmap(fd, SIZE)).cast("Q")[:1]

    @classmethod
    def create(cls) -> Heartbeat:
        fd = os.memfd_create("octavo-heartbeat")
        os.ftruncate(fd, SIZE)
        return cls(fd)

    @property
    def count(self) -> int:
        return self.beats[0]
