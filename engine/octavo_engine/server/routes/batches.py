"""/v1/batches: many requests in one file, answered in what online requests leave of the engine."""

from __future__ import annotations

import time

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.intake.admission import read_body
from octavo_engine.server.intake.batches import BatchBody, paged
from octavo_engine.server.routes.files import ends, named_file, runs_of
from octavo_engine.server.stored_batches.folder import FolderFullError
from octavo_engine.server.stored_batches.objects import Batch, BatchList, BatchRecord, new_id
from octavo_engine.server.stored_batches.upload import checked_seconds

LIMIT, MOST = 20, 100  # of a part of the list, as OpenAI has it


async def create_batch(request: web.Request) -> web.Response:
    """Begin a batch of an uploaded file's rows."""
    runs = runs_of(request)
    body = await read_body(request, BatchBody)
    body.check()
    file = named_file(runs, body.input_file_id, "input_file_id")
    if file.purpose != "batch":
        raise RequestError("input_file_id is a file of answers; upload one with the purpose batch", "input_file_id")
    seconds, expiry = runs.folder.config.file_seconds, body.output_expires_after
    if expiry is not None:
        seconds = checked_seconds(expiry.anchor, expiry.seconds, runs.folder)
    now = int(time.time())
    batch = Batch(
        id=new_id("batch_"),
        endpoint=body.endpoint,
        input_file_id=file.id,
        completion_window=body.completion_window,
        created_at=now,
        expires_at=now + body.window_seconds,
        metadata=body.metadata,
    )
    record = BatchRecord(batch=batch, output=new_id("file-"), errors=new_id("file-"), keep_seconds=seconds)
    try:
        await runs.add(record)
    except FolderFullError as error:
        raise RequestError(str(error), code="storage_full") from error
    except OSError as error:
        raise _unwritten(error) from error
    return json_response(batch)


async def batches(request: web.Request) -> web.Response:
    """A part of the list of batches."""
    kept = runs_of(request).folder.batches
    ids, more = paged(request, kept, limit=LIMIT, most=MOST)
    return json_response(BatchList([kept[name].batch for name in ids], *ends(ids), has_more=more))


async def batch(request: web.Request) -> web.Response:
    """One batch, as it is now."""
    return json_response(_record(request).batch)


async def cancel_batch(request: web.Request) -> web.Response:
    """End a batch where it is; what is answered so far stays."""
    record = _record(request)
    status = record.batch.status
    if status not in {"validating", "in_progress", "cancelling"}:
        raise RequestError(f"the batch is {status}: there is nothing to cancel", "batch_id", status=409)
    if status != "cancelling":
        try:
            await runs_of(request).cancel(record)
        except OSError as error:
            raise _unwritten(error) from error
    return json_response(record.batch)


def _unwritten(error: OSError) -> RequestError:
    return RequestError(f"the batch can't be written on this server: {error.strerror}; free space there", status=500)


def _record(request: web.Request) -> BatchRecord:
    name = request.match_info["batch"]
    record = runs_of(request).folder.batches.get(name)
    if record is None:
        raise RequestError(f"there is no batch {name[:80]!r}: /v1/batches lists them", "batch_id", status=404)
    return record
