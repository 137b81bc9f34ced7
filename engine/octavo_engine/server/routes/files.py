"""/v1/files: the files of batches. They are one tenant's: every API key reads, uses and deletes all of them."""

from __future__ import annotations

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.intake.admission import check_open, count
from octavo_engine.server.intake.batches import paged
from octavo_engine.server.stored_batches.objects import Deleted, FileList, StoredFile
from octavo_engine.server.stored_batches.runs import BATCHES, BatchRuns
from octavo_engine.server.stored_batches.upload import Upload

LIMIT = 10_000  # of a part of the list, as OpenAI has it


def runs_of(request: web.Request) -> BatchRuns:
    """The server's batches. Raises RequestError (404) where it has none."""
    runs = request.app.get(BATCHES)
    if runs is None:
        raise RequestError(
            "this server keeps no files and runs no batches: start it with --batch-dir FOLDER", status=404
        )
    return runs


def file_of(request: web.Request) -> StoredFile:
    """The file that the path names. Raises RequestError (404)."""
    return named_file(runs_of(request), request.match_info["file"], "file_id")


def named_file(runs: BatchRuns, file_id: str, param: str) -> StoredFile:
    """The file of that id. Raises RequestError (404)."""
    file = runs.folder.files.get(file_id)
    if file is None:
        raise RequestError(f"there is no file {file_id[:80]!r}: upload it again", param, status=404)
    return file


async def upload_file(request: web.Request) -> web.Response:
    """Keep a file that is sent as multipart/form-data."""
    runs = runs_of(request)
    check_open(request.app[CONTEXT])
    count(request)
    return json_response(await Upload(runs.folder).read(request))


async def files(request: web.Request) -> web.Response:
    """A part of the list of files, of one purpose if the query has one."""
    kept = runs_of(request).folder.files
    purpose = request.query.get("purpose")
    chosen = kept if purpose is None else {name: file for name, file in kept.items() if file.purpose == purpose}
    ids, more = paged(request, chosen, limit=LIMIT, most=LIMIT)
    return json_response(FileList([kept[name] for name in ids], *ends(ids), has_more=more))


def ends(ids: list[str]) -> tuple[str | None, str | None]:
    """The first and the last id of a part of a list."""
    return (ids[0], ids[-1]) if ids else (None, None)


async def file(request: web.Request) -> web.Response:
    """The description of a file."""
    return json_response(file_of(request))


async def file_content(request: web.Request) -> web.StreamResponse:
    """A file's bytes."""
    path = runs_of(request).folder.path_of(file_of(request).id)
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})


async def delete_file(request: web.Request) -> web.Response:
    """Delete a file that no batch needs any more."""
    folder, name = runs_of(request).folder, file_of(request).id
    user = folder.user_of(name)
    if user is not None:
        raise RequestError(
            f"the file is needed by {user}, which has not ended: cancel that first", "file_id", status=409
        )
    folder.remove(name)
    return json_response(Deleted(name))
