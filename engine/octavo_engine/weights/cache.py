"""The folder where fetched models are kept, and who may write to it when."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from octavo_engine.errors import ModelLoadError

RESERVE = 256 << 20  # bytes of the disk that no download takes: a full one ends whatever else runs on the machine
RESERVED_SHARE = 20  # at most this part of the disk, so that a volume sized for one model holds it

Report = Callable[[str, int, int | None], None]  # what is being done, bytes so far, bytes in all where known


def cache_folder() -> Path:
    """`$OCTAVO_CACHE`, or `octavo` under the user's cache folder. Raises ModelLoadError where there is neither."""
    named = os.environ.get("OCTAVO_CACHE")
    if named:
        return expanded(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "octavo"
    try:
        return Path.home() / ".cache" / "octavo"
    except RuntimeError as error:  # no HOME, and a uid without an entry in /etc/passwd
        raise ModelLoadError(
            "there is no folder for fetched models: this user has no home; set OCTAVO_CACHE to a folder that can be "
            "written"
        ) from error


def expanded(path: str) -> Path:
    """A path as the user wrote it, with `~` resolved. Raises ModelLoadError where no such home is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ModelLoadError(f"{path}: no such home is known; set HOME, or write the whole path") from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises ModelLoadError where `needed` bytes more would leave too little of the disk to others."""
    disk = shutil.disk_usage(folder)
    reserve = min(RESERVE, disk.total // RESERVED_SHARE)
    if needed + reserve > disk.free:
        raise ModelLoadError(
            f"{folder}: {what} needs {needed:,} bytes, and {disk.free:,} are free, of which {reserve:,} are left to others: "
            "free some, or name another folder with OCTAVO_CACHE"
        )


@contextmanager
def writing(folder: Path, report: Report, what: str) -> Iterator[None]:
    """Make `folder` and be the only process that writes to it; a process that is killed lets go of it.

    Raises:
        ModelLoadError: the folder can't be written to, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w", encoding="utf-8") as lock:
            _lock(lock.fileno(), report, what)
            yield
    except OSError as error:
        where = error.filename or folder
        raise ModelLoadError(
            f"{where}: {error.strerror or error}; models are kept under {cache_folder()}, "
            "and OCTAVO_CACHE names another folder"
        ) from error


def _lock(descriptor: int, report: Report, what: str) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that fetches {what}", 0, None)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Some network file systems have no locks; what is finished is still renamed into place whole.
        if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
            raise


def remove_leftovers(folder: Path) -> None:
    """Folders that a killed process was unpacking into; call it only while `writing`."""
    for stale in folder.glob(".unpacking-*"):
        shutil.rmtree(stale, ignore_errors=True)
