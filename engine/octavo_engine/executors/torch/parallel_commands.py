"""Commands of rank 0 to the other ranks of its machine: a ring in shared memory, written by one process, read by many.

A message takes one slot. Its number, which all processes see, is a futex: a reader that has read everything sleeps in
the kernel until the writer counts it up. The memory has no name, so that nothing is left behind however processes end:
readers open it through the writer's descriptor. What a message means, and who notices that a process is gone, is the
caller's (`parallel_pulse` ends the process).

Python has no memory barriers, and an Arm core may show the number before the message: a checksum over both decides.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import zlib

LINE = 64  # bytes: numbers that different processes write lie on different cache lines
NUM_SLOTS = 8  # rank 0 is two steps ahead of the others at most, and sends two commands more
SLOT_BYTES = 512 << 10  # a step of 128 decodes takes 27 KiB, and a prompt two to five bytes a token
FUTEX = {"x86_64": 202, "aarch64": 98}  # linux/unistd.h: the system call's number
FUTEX_WAIT, FUTEX_WAKE = 0, 1  # linux/futex.h; not private, for the processes share no address space
EVERY_READER = 1 << 30
WAIT_SECONDS = 1  # of one system call: signals are handled in between
FULL_SECONDS = 0.0002  # between two looks at a full ring
TORN_SECONDS = 5.0  # until a message whose checksum is wrong is taken for damaged
WORDS = LINE // 8
HEAD = 2  # words of a slot before its message: bytes, checksum
SLOT_WORDS = HEAD + SLOT_BYTES // 8


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class CommandRing:
    """The ring as its writer (`reader` None) or one of its readers sees it.

    Raises:
        OSError: the system offers no such memory, or not to this process.
    """

    def __init__(self, fd: int, num_readers: int, reader: int | None = None) -> None:
        """Take over a descriptor of `size_of(num_readers)` bytes."""
        number = FUTEX.get(os.uname().machine)
        if number is None:
            raise OSError(f"a {os.uname().machine} has no futex that is known here")
        self._fd = fd
        memory = mmap.mmap(fd, size_of(num_readers))
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")  # each is stored at once: no process sees a part of a number
        self._reader_counts = range(WORDS, WORDS * (1 + num_readers), WORDS)
        self._reader = reader
        self._count = 0  # messages that this process has written or read
        self._freed = NUM_SLOTS  # messages that may be written before a reader's count must be looked at again
        self._number = number
        self._system_call = ctypes.CDLL(None, use_errno=True).syscall
        self._futex = ctypes.byref(ctypes.c_uint32.from_buffer(memory))  # the low half of the first word
        self._wait = ctypes.byref(_Timespec(WAIT_SECONDS, 0))

    @classmethod
    def create(cls, num_readers: int) -> CommandRing:
        """Create a ring, as its writer."""
        fd = os.memfd_create("octavo-commands")
        os.ftruncate(fd, size_of(num_readers))
        return cls(fd, num_readers)

    @classmethod
    def open(cls, path: str, num_readers: int, reader: int) -> CommandRing:
        """Open the ring at the writer's `path` as reader number `reader`."""
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC), num_readers, reader)

    @property
    def path(self) -> str:
        """The file by which other processes of this user open the ring."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def put(self, data: bytes) -> None:
        """Write a message of up to SLOT_BYTES; waits where a reader has not read the one that lay in its slot."""
        assert len(data) <= SLOT_BYTES
        words = self._words
        while self._count == self._freed:
            self._freed = min(words[at] for at in self._reader_counts) + NUM_SLOTS
            if self._count == self._freed:
                time.sleep(FULL_SECONDS)
        self._count += 1
        at = self._slot()
        start = 8 * (at + HEAD)
        self._bytes[start : start + len(data)] = data
        words[at], words[at + 1] = len(data), self._checksum(data)
        words[0] = self._count
        self._system_call(self._number, self._futex, FUTEX_WAKE, EVERY_READER, None, None, 0)

    def get(self) -> bytes:
        """The next message, once it is written.

        Raises:
            RuntimeError: it is damaged.
        """
        assert self._reader is not None
        while self._words[0] == self._count:
            self._system_call(self._number, self._futex, FUTEX_WAIT, self._count & 0xFFFFFFFF, self._wait, None, 0)
        self._count += 1
        data = self._read()
        self._words[self._reader_counts[self._reader]] = self._count
        return data

    def close(self) -> None:
        """Leave the memory to the processes that still have it open."""
        os.close(self._fd)

    def _read(self) -> bytes:
        at, deadline = self._slot(), time.monotonic() + TORN_SECONDS
        start = 8 * (at + HEAD)
        while True:
            size, checksum = self._words[at], self._words[at + 1]
            data = bytes(self._bytes[start : start + min(size, SLOT_BYTES)])
            if checksum == self._checksum(data):
                return data
            if time.monotonic() > deadline:
                raise RuntimeError(f"command {self._count} of rank 0 is damaged in shared memory")

    def _slot(self) -> int:
        """The first word of the present message's slot."""
        return WORDS * (1 + len(self._reader_counts)) + (self._count % NUM_SLOTS) * SLOT_WORDS

    def _checksum(self, data: bytes) -> int:
        return zlib.crc32(data, self._count & 0xFFFFFFFF)


def size_of(num_readers: int) -> int:
    """The size of a ring in bytes."""
    return 8 * (WORDS * (1 + num_readers) + NUM_SLOTS * SLOT_WORDS)
