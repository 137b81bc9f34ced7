"""Brings batches from status to status, a task for each: its rows are checked, answered in the background, and finished.

What a kill leaves unfinished goes on at the next start: a row is answered once its line is in one of the batch's two
files, and no row is sent whose line is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from octavo_engine.batches.rows import BatchError, Row, answer_line, answered, append, read_rows, unanswered_line
from octavo_engine.batches.runner import OnAnswer, Runner
from octavo_engine.server.intake.limits import MAX_ROW_FIELDS
from octavo_engine.server.metrics import Metrics
from octavo_engine.server.stored_batches.folder import BatchFolder, FolderFullError
from octavo_engine.server.stored_batches.objects import (
    BatchRecord,
    BatchStatus,
    RowProblem,
    RowProblems,
    StoredFile,
)
from octavo_engine.server.stored_batches.row_server import RowServer
from octavo_engine.server.stored_batches.validation import validate

logger = logging.getLogger(__name__)

AT_ONCE = 8  # batches that share the slots for rows; later ones wait for one of them to end
AGAIN_SECONDS = 5.0  # until the end of a batch, which the disk refused, is written again
EXPIRY_SECONDS = 60.0  # between two looks for files whose time is over
TURN_ROWS = 32  # that have an answer and are read without a pause
FULL = {errno.ENOSPC, errno.EDQUOT}
BUG = "internal_error"
EXPIRED = "this row could not be answered before the completion window ended"


class BatchRuns:
    """The batches of a folder. As many rows as `num_slots` are sent to `server` at a time.

    `body_bytes` bounds the body of a row, as it does that of any request.
    """

    def __init__(
        self, folder: BatchFolder, metrics: Metrics, server: RowServer, num_slots: int, body_bytes: int
    ) -> None:
        self.folder = folder
        self._metrics = metrics
        self._server = server
        self._num_slots = num_slots
        self._line_bytes = body_bytes + MAX_ROW_FIELDS
        self._slots = asyncio.Semaphore(num_slots)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._finishing: set[str] = set()  # ids of batches that are too late to cancel
        self._changes: set[asyncio.Task[None]] = set()  # which clients have asked for
        self._serving = asyncio.Event()
        self._expiring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on with what is unfinished. Raises OSError where the server of rows can't listen."""
        await self._server.start()
        self._serving.set()
        self._expiring = asyncio.create_task(self._expire())
        for record in self.folder.unfinished():
            self._begin(record)

    async def stop(self) -> None:
        """Leave rows that are not answered to the next start."""
        self._serving.clear()
        await asyncio.gather(*self._changes, return_exceptions=True)
        tasks = [*self._tasks.values(), *([self._expiring] if self._expiring is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.stop()

    async def add(self, record: BatchRecord) -> None:
        """Keep a new batch, and run it, even if the client goes away meanwhile.

        Raises:
            FolderFullError, OSError: it can't be kept, and is not listed.
        """
        await self._whole(self._add(record))

    async def _add(self, record: BatchRecord) -> None:
        await self.folder.keep_batch(record)
        self._begin(record)

    async def cancel(self, record: BatchRecord) -> None:
        """End a batch where it is, even if the client goes away meanwhile; the answers so far are kept.

        A batch whose answers are being listed ends as it would have.

        Raises:
            OSError: the request can't be kept; the batch is cancelled unless the server is killed first.
        """
        if record.batch.id not in self._finishing:
            await self._whole(self._cancel(record))

    async def _cancel(self, record: BatchRecord) -> None:
        if record.batch.id in self._finishing:
            return
        record.batch.enter("cancelling")
        task = self._tasks.get(record.batch.id)
        if task is not None:
            task.cancel()
        else:
            self._begin(record)
        await self.folder.keep_batch(record)

    async def _whole(self, change: Coroutine[None, None, None]) -> None:
        """Make a change to its end, whatever becomes of the caller."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    def _begin(self, record: BatchRecord) -> None:
        name = record.batch.id
        if not self._serving.is_set() or name in self._tasks:
            return  # the next start has it, or a task that has begun
        task = self._tasks[name] = asyncio.create_task(self._run(record), name=f"batch {name}")
        task.add_done_callback(lambda _task: self._tasks.pop(name, None))

    async def _run(self, record: BatchRecord) -> None:
        try:
            if record.batch.status != "cancelling":
                await self._advance(record)
        except asyncio.CancelledError:
            if record.batch.status != "cancelling" or not self._serving.is_set():
                raise  # the server ends
        except Exception as error:  # noqa: BLE001 — whatever it is, the batch ends and says so
            await self._settle(record, _first(error))
            return
        if record.batch.status == "cancelling":
            await self._finish(record, "cancelled")

    async def _settle(self, record: BatchRecord, error: BaseException) -> None:
        """End a batch after an error, but for the engine's end: the next start goes on."""
        if isinstance(error, ConnectionError):
            return
        record.batch.errors = RowProblems([_problem(error)])
        if record.batch.errors.data[0].code == BUG:
            logger.error("a bug while running %s", record.batch.id, exc_info=error)
        await self._finish(record, "failed")

    async def _advance(self, record: BatchRecord) -> None:
        """Bring the batch from its status to its end."""
        batch = record.batch
        async with self._place(batch.expires_at):
            if batch.status == "validating":
                path = self.folder.path_of(batch.input_file_id)
                total, problems = await asyncio.to_thread(validate, path, batch.endpoint, self._line_bytes)
                if problems:
                    batch.errors = RowProblems(problems)
                    await self._finish(record, "failed")
                    return
                batch.request_counts.total = total
                await self._enter(record, "in_progress")
            if batch.status == "in_progress":
                answers = Answers(self.folder, record, self._metrics)
                await answers.open()
                try:
                    async with asyncio.timeout(batch.expires_at - time.time()):
                        await self._runner(answers.write).run(answers.left(), self._serving)
                except TimeoutError:
                    await answers.expire()
                    await self._finish(record, "expired")
                    return
                finally:
                    answers.close()
                await self._enter(record, "finalizing")
            if batch.status == "finalizing":
                await self._finish(record, "completed")

    @contextlib.asynccontextmanager
    async def _place(self, deadline: float) -> AsyncIterator[None]:
        """Hold one of the places; without one from `deadline` on, when all that is left is to expire."""
        try:
            async with asyncio.timeout(deadline - time.time()):
                await self._places.acquire()
        except TimeoutError:
            yield
            return
        try:
            yield
        finally:
            self._places.release()

    def _runner(self, on_answer: OnAnswer) -> Runner:
        return Runner(self._server.path, on_answer, self._num_slots, self._slots)

    async def _enter(self, record: BatchRecord, status: BatchStatus) -> None:
        if record.batch.status != "cancelling":
            record.batch.enter(status)
            await self.folder.keep_batch(record)

    async def _finish(self, record: BatchRecord, status: BatchStatus) -> None:
        """List the files of answers, and enter the last status, once the disk takes both."""
        name = record.batch.id
        self._finishing.add(name)
        try:
            while True:
                try:
                    await self._end(record, status)
                except OSError as error:
                    logger.warning("the end of %s can't be written yet: %s; free space on the disk", name, error)
                else:
                    return
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self._finishing.discard(name)

    async def _end(self, record: BatchRecord, status: BatchStatus) -> None:
        batch, now = record.batch, int(time.time())
        for file_id, name in ((record.output, "output"), (record.errors, "error")):
            path = self.folder.path_of(file_id)
            if not path.exists() or not path.stat().st_size:
                self.folder.discard(file_id)
                continue
            file = StoredFile(
                id=file_id,
                bytes=path.stat().st_size,
                created_at=now,
                expires_at=now + record.keep_seconds,
                filename=f"{batch.id}_{name}.jsonl",
                purpose="batch_output",
            )
            await self.folder.keep(file)
            setattr(batch, f"{name}_file_id", file_id)
        before = batch.status
        batch.enter(status)
        try:
            await self.folder.keep_batch(record)
        except OSError:
            batch.status = before  # as the disk has it
            raise
        logger.info(
            "%s: %s, %d of %d rows answered, %d refused",
            *(
                batch.id,
                status,
                batch.request_counts.completed,
                batch.request_counts.total,
                batch.request_counts.failed,
            ),
        )

    async def _expire(self) -> None:
        while True:
            try:
                self.folder.expire()
            except OSError as error:
                logger.warning("files of --batch-dir can't be deleted: %s", error)
            await asyncio.sleep(EXPIRY_SECONDS)


class Answers:
    """The two files that a batch's answers go to, and the rows that have none yet."""

    def __init__(self, folder: BatchFolder, record: BatchRecord, metrics: Metrics) -> None:
        self._folder = folder
        self._record = record
        self._metrics = metrics
        self._done: set[str] = set()
        self._files: list[int] = []

    async def open(self) -> None:
        """Read what an earlier run has written; a line that it could not finish is cut off. Raises BatchError, OSError."""
        paths = self._folder.path_of(self._record.output), self._folder.path_of(self._record.errors)
        good, bad, cut = await asyncio.to_thread(_answered, *paths)
        self._folder.used -= cut  # on the event loop, as all of its changes
        self._done = good | bad
        counts = self._record.batch.request_counts
        counts.completed, counts.failed = len(good), len(bad)
        self._files = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for path in paths]

    def left(self) -> Iterator[Row | None]:
        """The rows without an answer, in order; None now and then among those that have one, for other tasks' turns."""
        rows = read_rows(self._folder.path_of(self._record.batch.input_file_id))
        for number, row in enumerate(rows, 1):
            if row.custom_id not in self._done:
                yield row
            elif number % TURN_ROWS == 0:
                yield None

    def write(self, row: Row, status: int, body: Any) -> None:
        """Write a row's answer, to the output or to the errors. Raises FolderFullError, OSError."""
        self._append(row, answer_line(row, status, body, error_in_body=True), good=status < 400)

    async def expire(self) -> None:
        """Write an error for each row that has no answer."""
        for row in self.left():
            if row is not None:
                self._append(row, unanswered_line(row, "batch_expired", EXPIRED), good=False, outcome="expired")
            await asyncio.sleep(0)

    def _append(self, row: Row, line: bytes, *, good: bool, outcome: str = "") -> None:
        self._folder.take(len(line))
        try:
            append(self._files[not good], line)
        except OSError:
            self._folder.used -= len(line)
            raise
        self._done.add(row.custom_id)
        counts = self._record.batch.request_counts
        counts.completed += good
        counts.failed += not good
        self._metrics.batches.rows.add(1, outcome or ("answered" if good else "refused"))

    def close(self) -> None:
        """Close both files."""
        for file in self._files:
            os.close(file)


def _answered(output: Path, errors: Path) -> tuple[set[str], set[str], int]:
    """The ids of the rows in both files, and the number of bytes that were cut off."""
    before = _size(output) + _size(errors)
    good, bad = answered(output), answered(errors)
    return good, bad, before - _size(output) - _size(errors)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _problem(error: BaseException) -> RowProblem:
    """The reason why a batch failed, without any path of this server's."""
    if isinstance(error, FolderFullError):
        return RowProblem("storage_full", str(error))
    cause = error.__cause__ if isinstance(error, BatchError) else error
    if isinstance(cause, OSError):
        code = "storage_full" if cause.errno in FULL else "file_error"
        return RowProblem(code, f"the batch's files can't be read or written on this server: {cause.strerror}")
    return RowProblem(BUG, "internal error; the server's log has the traceback")


def _first(error: BaseException) -> BaseException:
    """The first of the errors that tasks of a group have raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


BATCHES: web.AppKey[BatchRuns] = web.AppKey("batches", BatchRuns)
