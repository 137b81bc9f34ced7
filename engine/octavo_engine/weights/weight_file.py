"""A file of weights, read in bounded parts: truncating or rewriting it during the load is an error, not a SIGBUS.

For that reason it is not mapped into memory: a mapped page that the file no longer has ends the process without a
message, and so does a failing disk. Each weight is packed right after it was read, so its copy is short-lived.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from octavo_engine.errors import ModelLoadError
from octavo_models.errors import ModelError, with_remedy

LONGEST_READ = 1 << 30  # bytes; Linux reads no more than 2 GiB at once
HUGE_PAGE = 2 << 20  # bytes
Header = TypeVar("Header")


class WeightFile:
    """An opened file of `size` bytes.

    Raises:
        ModelLoadError: it can't be opened, or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise ModelLoadError(
                f"{path}: it can't be read: {error.strerror or error}; fetch it again, or check its permissions"
            ) from error
        self._stamp = self._stat()
        self.size = self._stamp[0]
        if not self.size:
            self.close()
            raise ModelLoadError(f"{path}: the file is empty; fetch it again")

    def header(self, read: Callable[[BinaryIO], Header]) -> Header:
        """The result of `read`, which reads the file from its beginning.

        Raises:
            ModelLoadError: the header is wrong, or can't be read; names the file.
        """
        with naming(self.path):
            try:
                return read(self._file)
            except OSError as error:
                raise ModelLoadError(
                    f"{self.path}: it can't be read: {error.strerror or error}; fetch it again, or check its permissions"
                ) from error

    def read(self, offset: int, count: int) -> memoryview:
        """A copy of `count` bytes at `offset`, within the file's size when it was opened.

        Raises:
            ModelLoadError: the file was changed since, or can't be read.
        """
        buffer = memoryview(self._memory(count) if count else b"")
        done = 0
        while done < count:
            try:
                got = os.preadv(self._file.fileno(), [buffer[done : done + LONGEST_READ]], offset + done)
            except OSError as error:
                raise ModelLoadError(
                    f"{self.path}: it can't be read: {error.strerror or error}; fetch it again, or check its permissions"
                ) from error
            if not got:
                break
            done += got
        if done < count or self._stat() != self._stamp:
            raise ModelLoadError(
                f"{self.path}: it was changed while it was being loaded: start again once it is written whole"
            )
        return buffer.toreadonly()

    def close(self) -> None:
        self._file.close()

    def _memory(self, count: int) -> mmap.mmap:
        """Anonymous memory: it is aligned, isn't filled twice as a bytearray would be, and is given back at once."""
        try:
            memory = mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise ModelLoadError(
                f"{self.path}: {count:,} bytes of memory are needed for one of its tensors ({error.strerror}): choose a "
                "smaller or a quantized model, or raise the container's memory limit"
            ) from error
        if count >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages, which are allocated in a fifth of the time
                memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise errors of octavo_models as a ModelLoadError that names the file at `path`."""
    try:
        yield
    except ModelError as error:
        raise ModelLoadError(f"{path}: {with_remedy(error)}") from error
