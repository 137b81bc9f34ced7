"""The folder of `--batch-dir`: files and batches on the disk, within bounds, for one server at a time.

    lock                 held while a server has the folder
    files/ID             rows or answers
    files/ID.json        what the API says of them; an ID without it is being written
    batches/ID.json      a `BatchRecord`

Nothing else in the folder is read, written or deleted. What clients name is looked up in memory, and makes no path.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import time
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from octavo_engine.config import BatchConfig
from octavo_engine.errors import ConfigError, OctavoError
from octavo_engine.server.intake.limits import MAX_STORED_BATCHES, MAX_STORED_FILES
from octavo_engine.server.stored_batches.objects import ENDED, BatchRecord, StoredFile, new_id

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", StoredFile, BatchRecord)
_FILE = re.compile(r"file-[0-9a-f]{32}")
_BATCH = re.compile(r"batch_[0-9a-f]{32}")


class FolderFullError(OctavoError):
    """A bound of the folder is reached; the message names it."""


class BatchFolder:
    """The files and batches of one folder, by id, in the order in which they were made."""

    def __init__(self, config: BatchConfig) -> None:
        """Take the folder and read what it holds. Raises ConfigError if that can't be."""
        assert config.folder is not None
        self.config = config
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, BatchRecord] = {}
        self._writing = asyncio.Lock()
        self.used = 0  # bytes of all files, those included that are being written
        self._path = Path(config.folder)
        try:
            for folder in (self._path, self._path / "files", self._path / "batches"):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = (self._path / "lock").open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            raise ConfigError(f"--batch-dir {config.folder} is another server's: give each replica its own") from None
        except OSError as error:
            raise ConfigError(
                f"--batch-dir {config.folder} can't be used: {error.strerror}; name a folder that this user may write"
            ) from error

    def _read(self) -> None:
        self.batches, unread = self._records("batches", _BATCH, BatchRecord)
        self.files, left_out = self._records("files", _FILE, StoredFile)
        written = {name for record in self.unfinished() for name in record.files} | left_out
        for path in sorted((self._path / "files").iterdir()):
            name = path.name.partition(".")[0]
            if not _FILE.fullmatch(name):
                continue
            if name not in self.files and name not in written and not unread:
                path.unlink()  # a server was killed while a client sent it
            elif path.name == name:
                self.used += path.stat().st_size
        for name in [name for name in self.files if not self.path_of(name).exists()]:
            self.remove(name)

    def _records(self, folder: str, names: re.Pattern[str], kind: type[Kept]) -> tuple[dict[str, Kept], set[str]]:
        """The records of a folder by id, and the ids of those that can't be read, such as a later release's."""
        found: dict[str, Kept] = {}
        unread: set[str] = set()
        for path in sorted((self._path / folder).glob("*.json")):
            if names.fullmatch(path.stem):
                try:
                    found[path.stem] = msgspec.json.decode(path.read_bytes(), type=kind)
                except msgspec.MsgspecError as error:
                    unread.add(path.stem)
                    logger.warning("%s is left out, it can't be read, and its data is left as it is: %s", path, error)
        return found, unread

    def close(self) -> None:
        """Let another server have the folder."""
        self._lock.close()

    def unfinished(self) -> list[BatchRecord]:
        """The batches that have not ended."""
        return [record for record in self.batches.values() if record.batch.status not in ENDED]

    def path_of(self, file_id: str) -> Path:
        """The path of a file's bytes; the id is one that was made here."""
        assert _FILE.fullmatch(file_id), file_id
        return self._path / "files" / file_id

    def check_number(self) -> None:
        """Raise FolderFullError if no more files are kept."""
        if len(self.files) >= MAX_STORED_FILES:
            raise FolderFullError(
                f"this server keeps {MAX_STORED_FILES} files at most: delete some that are not needed"
            )

    def take(self, count: int) -> None:
        """Count bytes that are about to be written. Raises FolderFullError where they would be too many."""
        if self.used + count > self.config.folder_bytes:
            raise FolderFullError(
                f"the files of this server may have {self.config.folder_bytes} bytes in all (--batch-dir-bytes): delete "
                "some that are not needed"
            )
        self.used += count

    def create(self) -> tuple[str, BinaryIO]:
        """A new file to write, which is listed once it is given to `keep`, or dropped by `discard`."""
        file_id = new_id("file-")
        return file_id, self.path_of(file_id).open("xb")

    def discard(self, file_id: str) -> None:
        """Delete a file that is not listed, all of whose bytes have been written."""
        path = self.path_of(file_id)
        if path.exists():
            self.drop(file_id, path.stat().st_size)

    def drop(self, file_id: str, taken: int) -> None:
        """Delete a file that is not listed, `taken` bytes of which are counted, whether or not they were written."""
        self.used -= taken
        self.path_of(file_id).unlink(missing_ok=True)

    async def keep(self, file: StoredFile) -> None:
        """List a file whose bytes have been written."""
        await self._write(self.path_of(file.id).with_name(f"{file.id}.json"), file)
        self.files[file.id] = file

    async def keep_batch(self, record: BatchRecord) -> None:
        """Keep a batch as it is now. Raises FolderFullError for a new one where there are too many.

        A new one that can't be written (OSError) is not listed.
        """
        name = record.batch.id
        new = name not in self.batches
        if new and len(self.batches) >= MAX_STORED_BATCHES:
            raise FolderFullError(
                f"this server keeps {MAX_STORED_BATCHES} batches at most; they go with the time that files are kept: wait"
            )
        self.batches[name] = record
        try:
            await self._write(self._path / "batches" / f"{name}.json", record)
        except OSError:
            if new:
                del self.batches[name]
            raise

    async def _write(self, path: Path, kept: StoredFile | BatchRecord) -> None:
        """Replace a file, whole or not at all, also where the caller is cancelled; in a thread, for disks take their time."""
        await asyncio.shield(asyncio.ensure_future(self._write_next(path, kept)))

    async def _write_next(self, path: Path, kept: StoredFile | BatchRecord) -> None:
        async with self._writing:  # until the thread has ended: the next one may write the same file
            await asyncio.to_thread(_replace, path, msgspec.json.encode(kept))

    def remove(self, file_id: str) -> None:
        """Delete a listed file."""
        del self.files[file_id]
        path = self.path_of(file_id)
        path.with_name(f"{file_id}.json").unlink(missing_ok=True)
        self.discard(file_id)

    def user_of(self, file_id: str) -> str | None:
        """The unfinished batch that needs a file; None if there is none."""
        return next((record.batch.id for record in self.unfinished() if file_id in record.files), None)

    def expire(self) -> None:
        """Delete the files whose time is over and that no batch needs, and the batches that ended as long ago."""
        now = time.time()
        for file_id in [name for name, file in self.files.items() if file.expires_at <= now]:
            if self.user_of(file_id) is None:
                self.remove(file_id)
        for name, record in list(self.batches.items()):
            if record.batch.status in ENDED and record.batch.expires_at + record.keep_seconds <= now:
                del self.batches[name]
                (self._path / "batches" / f"{name}.json").unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
