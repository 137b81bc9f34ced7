"""Batches whose clients go away and whose disk fails: each ends, in memory as on the disk."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from types import SimpleNamespace
from unittest.mock import AsyncMock, MagicMock

import pytest

from octavo_engine.batches.rows import append
from octavo_engine.config import BatchConfig
from octavo_engine.server.stored_batches import folder as folder_module
from octavo_engine.server.stored_batches import runs as runs_module
from octavo_engine.server.stored_batches.folder import BatchFolder
from octavo_engine.server.stored_batches.objects import Batch, BatchRecord, StoredFile, new_id
from octavo_engine.server.stored_batches.runs import TURN_ROWS, Answers, BatchRuns

ROWS = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}\n'


class Waiting:
    """A runner of rows that answers none until `go`, then all."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = asyncio.Event()

    def __call__(self, on_answer):
        self._on_answer = on_answer
        return self

    async def run(self, rows, _alive) -> None:
        self.running.set()
        await self.go.wait()
        for row in rows:
            self._on_answer(row, 200, {"answer": "yes"})


@pytest.fixture
def kept(tmp_path):
    folder = BatchFolder(BatchConfig(folder=str(tmp_path)))
    yield folder
    folder.close()


@pytest.fixture
async def runs(kept, monkeypatch):
    monkeypatch.setattr(runs_module, "AGAIN_SECONDS", 0.02)
    server = SimpleNamespace(path="", start=AsyncMock(), stop=AsyncMock())
    runs = BatchRuns(kept, MagicMock(), server, num_slots=1, body_bytes=1000)
    runs._runner = runs.rows = Waiting()
    await runs.start()
    yield runs
    await runs.stop()


async def new_record(folder: BatchFolder, **fields) -> BatchRecord:
    """A batch of one row, which is not kept yet."""
    file_id, file = folder.create()
    with file:
        file.write(ROWS)
    folder.take(len(ROWS))
    now = int(time.time())
    stored = StoredFile(
        id=file_id, bytes=len(ROWS), created_at=now, expires_at=now + 3600, filename="x", purpose="batch"
    )
    await folder.keep(stored)
    times = {"created_at": now, "expires_at": now + 3600} | fields
    batch = Batch(
        id=new_id("batch_"), endpoint="/v1/completions", input_file_id=file_id, completion_window="1h", **times
    )
    return BatchRecord(batch=batch, output=new_id("file-"), errors=new_id("file-"), keep_seconds=3600)


async def ended(record: BatchRecord, status: str, tmp_path) -> None:
    """Wait until a batch has that status, on the disk too."""
    path = tmp_path / "batches" / f"{record.batch.id}.json"
    await until(lambda: record.batch.status == status and json.loads(path.read_bytes())["batch"]["status"] == status)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 — of the disk, too
            await asyncio.sleep(0.005)


class Disk:
    """The disk of the records: slow, or `full` for a time."""

    def __init__(self, monkeypatch) -> None:
        self._write = folder_module._replace
        self.full = False
        self.seconds = 0.0
        monkeypatch.setattr(folder_module, "_replace", self)

    def __call__(self, path, data) -> None:
        time.sleep(self.seconds)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(path, data)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


async def left_by_its_client(change) -> None:
    """Begin a change and break it off while the disk writes."""
    task = asyncio.create_task(change)
    await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_a_batch_whose_client_goes_away_while_it_is_made_runs(runs, kept, disk, tmp_path):
    record = await new_record(kept)
    runs.rows.go.set()
    disk.seconds = 0.2
    await left_by_its_client(runs.add(record))
    await ended(record, "completed", tmp_path)


async def test_a_batch_whose_client_goes_away_while_it_is_cancelled_ends(runs, kept, disk, tmp_path):
    record = await new_record(kept)
    await runs.add(record)
    await runs.rows.running.wait()
    disk.seconds = 0.2
    await left_by_its_client(runs.cancel(record))
    await ended(record, "cancelled", tmp_path)


async def test_a_batch_that_cannot_be_written_is_not_listed(runs, kept, disk, tmp_path):
    record = await new_record(kept)
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        await runs.add(record)
    assert not kept.batches
    assert not list((tmp_path / "batches").iterdir())


async def test_a_batch_without_a_task_is_cancelled(runs, kept, tmp_path):
    record = await new_record(kept)
    await kept.keep_batch(record)
    await runs.cancel(record)
    await ended(record, "cancelled", tmp_path)


async def test_a_cancellation_does_not_break_off_a_batchs_end(runs, kept, disk, tmp_path):
    """A batch whose window is over lists its answers, and is expired."""
    record = await new_record(kept, expires_at=int(time.time()) - 1)
    disk.seconds = 0.1
    await runs.add(record)
    await until(lambda: record.batch.request_counts.failed)
    await runs.cancel(record)
    await ended(record, "expired", tmp_path)
    assert record.batch.error_file_id == record.errors


async def test_a_batch_ends_once_the_disk_takes_its_end(runs, kept, disk, tmp_path):
    """A batch has not ended for its client as long as its record says otherwise."""
    record = await new_record(kept)
    await runs.add(record)
    await runs.rows.running.wait()
    disk.full = True
    runs.rows.go.set()
    await until(lambda: record.batch.request_counts.completed)
    await asyncio.sleep(0.05)
    assert record.batch.status not in {"completed", "failed"}
    disk.full = False
    await ended(record, "failed", tmp_path)  # the status before the last could not be written either
    assert record.batch.output_file_id == record.output


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    """The first write takes half of it, and the second none."""
    path = tmp_path / "answers"
    path.write_bytes(b"first\n")
    write, calls = os.write, []

    def short(file, data):
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:3])

    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space"):
            append(file, b"second\n")
    append(file, b"third\n")
    os.close(file)
    assert path.read_bytes() == b"first\nthird\n"


async def test_a_window_ends_while_a_batch_waits_for_a_place(runs, kept, monkeypatch, tmp_path):
    """Each of its rows has an error that says so."""
    first, late = await new_record(kept), await new_record(kept)
    monkeypatch.setattr(runs, "_places", asyncio.Semaphore(1))
    await runs.add(first)
    await runs.rows.running.wait()
    late.batch.expires_at = time.time() + 0.05
    await runs.add(late)
    await until(lambda: late.batch.status == "expired")
    assert late.batch.request_counts.failed == 1
    assert (first.batch.status, runs._places.locked()) == ("in_progress", True)
    await runs.cancel(first)
    await until(lambda: not runs._places.locked())


async def test_rows_that_are_answered_are_skipped_with_turns_for_others(kept):
    record = await new_record(kept)
    names = [f"{i}" for i in range(100)]
    kept.path_of(record.batch.input_file_id).write_bytes(
        b"".join(ROWS.replace(b'"a"', b'"%d"' % i) for i in range(100))
    )
    kept.path_of(record.output).write_text("".join(json.dumps({"custom_id": name}) + "\n" for name in names[:90]))
    answers = Answers(kept, record, MagicMock())
    await answers.open()
    left = list(answers.left())
    answers.close()
    assert [row.custom_id for row in left if row is not None] == names[90:]
    assert left.count(None) == 90 // TURN_ROWS
