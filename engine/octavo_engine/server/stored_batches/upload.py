"""Reads a file that a client sends as multipart/form-data: to the disk as it comes, within the folder's bounds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import BinaryIO

from aiohttp import BodyPartReader, web

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.limits import BODY_GRACE_SECONDS, SLOWEST_BODY
from octavo_engine.server.stored_batches.folder import BatchFolder, FolderFullError
from octavo_engine.server.stored_batches.objects import StoredFile

PIECE = 64 * 1024  # bytes that are read at once
BUFFER = 2**20  # bytes that are written at once, in a thread
MAX_FIELD = 1024  # bytes of a field that is no file
MAX_FIELDS = 16
MAX_NAME = 255
LEAST_SECONDS = 3600  # OpenAI's bounds of `expires_after`
FORM = "send multipart/form-data with the fields file and purpose"


class Upload:
    """One file on its way; `read` keeps it, and leaves nothing behind where it raises."""

    def __init__(self, folder: BatchFolder) -> None:
        self._folder = folder
        self._fields: dict[str, str] = {}
        self._file_id: str | None = None
        self._filename = ""
        self._size = 0
        self._taken = 0  # bytes that the folder counts for this upload

    async def read(self, request: web.Request) -> StoredFile:
        """The file of `request`, kept.

        Raises:
            RequestError: the form is wrong, too slow (408) or too large (413), or the folder is full.
        """
        try:
            self._folder.check_number()
            await self._read_parts(request)
            return await self._kept()
        except FolderFullError as error:
            raise RequestError(str(error), "file", code="storage_full") from error
        except OSError as error:
            raise RequestError(
                f"the file can't be written on this server: {error.strerror}", "file", status=500
            ) from error
        finally:
            if self._file_id is not None and self._file_id not in self._folder.files:
                self._folder.drop(self._file_id, self._taken)

    async def _read_parts(self, request: web.Request) -> None:
        if not request.content_type.startswith("multipart/form-data"):
            raise RequestError(f"the body is {request.content_type[:80]}: {FORM}", status=415)
        try:
            reader = await request.multipart()
            async with asyncio.timeout(BODY_GRACE_SECONDS) as self._clock:
                for _ in range(MAX_FIELDS):
                    part = await reader.next()
                    if part is None:
                        return
                    if not isinstance(part, BodyPartReader):
                        raise RequestError(f"a part of the form is a form itself: {FORM}")
                    await self._read_part(part)
        except TimeoutError:
            raise RequestError(
                f"the file came too slowly: after {BODY_GRACE_SECONDS:g} s, less than {SLOWEST_BODY // 1024} KiB a second; "
                "send it again",
                status=408,
            ) from None
        except (ValueError, AssertionError, EOFError) as error:  # aiohttp's words for a form that is malformed
            raise RequestError(f"the form is malformed: {FORM}") from error
        raise RequestError(f"the form has more than {MAX_FIELDS} fields: {FORM}")

    async def _read_part(self, part: BodyPartReader) -> None:
        name = part.name or ""
        if name != "file":
            data = b""
            while piece := await part.read_chunk(PIECE):
                data += piece
                if len(data) > MAX_FIELD:
                    raise RequestError(f"{name[:80]} is longer than {MAX_FIELD} bytes", name[:80])
            self._fields[name] = data.decode(errors="replace")
            return
        if self._file_id is not None:
            raise RequestError("the form has two files: send one at a time", "file")
        self._filename = (part.filename or "file.jsonl")[:MAX_NAME].encode(errors="replace").decode()
        self._file_id, file = self._folder.create()
        with file:
            await self._copy(part, file)

    async def _copy(self, part: BodyPartReader, file: BinaryIO) -> None:
        buffer = bytearray()
        while piece := await part.read_chunk(PIECE):
            self._size += len(piece)
            limit = self._folder.config.file_bytes
            if self._size > limit:
                raise RequestError(
                    f"the file is larger than {limit} bytes (--batch-file-bytes): split it", "file", status=413
                )
            self._folder.take(len(piece))
            self._taken += len(piece)
            buffer += piece
            if len(buffer) >= BUFFER:
                await asyncio.to_thread(file.write, bytes(buffer))
                buffer.clear()
            end = self._clock.when()
            assert end is not None
            self._clock.reschedule(end + len(piece) / SLOWEST_BODY)
        await asyncio.to_thread(file.write, bytes(buffer))
        file.flush()

    async def _kept(self) -> StoredFile:
        if self._file_id is None:
            raise RequestError(f"the form has no file: {FORM}", "file")
        purpose = self._fields.get("purpose")
        if purpose != "batch":
            raise RequestError(
                f"purpose is {purpose[:80]!r}; files are kept for batches: send batch" if purpose else FORM, "purpose"
            )
        now = int(time.time())
        file = StoredFile(
            id=self._file_id,
            bytes=self._size,
            created_at=now,
            expires_at=now + self._seconds(),
            filename=self._filename,
            purpose="batch",
        )
        await self._folder.keep(file)
        return file

    def _seconds(self) -> int:
        anchor, text = self._fields.get("expires_after[anchor]"), self._fields.get("expires_after[seconds]")
        if anchor is None and text is None:
            return self._folder.config.file_seconds
        seconds = None
        with contextlib.suppress(ValueError):
            seconds = int(text or "")
        return checked_seconds(anchor, seconds, self._folder)


def checked_seconds(anchor: str | None, seconds: int | None, folder: BatchFolder) -> int:
    """The seconds of an `expires_after`. Raises RequestError for others than those from `created_at` within the bounds."""
    most = folder.config.file_seconds
    least = min(LEAST_SECONDS, most)
    if anchor != "created_at" or seconds is None or not least <= seconds <= most:
        raise RequestError(
            f"expires_after needs the anchor created_at and {least} to {most} seconds (--batch-file-seconds)",
            "expires_after",
        )
    return seconds
