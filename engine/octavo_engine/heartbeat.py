"""A counter in shared memory that the engine core increments as it works; it distinguishes a slow core from a dead one.

The core's messages are not enough for that: in the middle of a step it sends none.
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
