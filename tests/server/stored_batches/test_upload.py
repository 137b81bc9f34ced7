"""Uploads that are broken off, and their names."""

from __future__ import annotations

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from octavo_engine.config import BatchConfig
from octavo_engine.errors import RequestError
from octavo_engine.server.stored_batches.folder import BatchFolder
from octavo_engine.server.stored_batches.upload import Upload

HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture
def folder(tmp_path):
    folder = BatchFolder(BatchConfig(folder=str(tmp_path / "kept"), file_bytes=200_000))
    yield folder
    folder.close()


@pytest.fixture
async def client(folder):
    async def upload(request: web.Request) -> web.Response:
        try:
            return web.Response(body=msgspec.json.encode(await Upload(folder).read(request)))
        except RequestError as error:
            return web.Response(status=error.status, text=str(error))

    app = web.Application()
    app.router.add_post("/", upload)
    async with TestClient(TestServer(app)) as client:
        yield client


def form(data: bytes, name: bytes = b"rows.jsonl") -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b\r\n--b--\r\n' % (name, data)
    )


async def test_an_upload_that_fails_gives_all_of_its_bytes_back(client, folder):
    """Bytes that were counted and not yet written are given back too; a file that is kept stays counted."""
    assert (await client.post("/", data=form(b"x" * 1000), headers=HEADERS)).status == 200
    assert folder.used == 1000
    for _ in range(3):
        assert (await client.post("/", data=form(b"x" * 200_001), headers=HEADERS)).status == 413
    assert folder.used == 1000
    (file,) = folder.files
    folder.remove(file)
    assert folder.used == 0


async def test_a_file_name_that_is_no_utf8_is_kept_in_part(client):
    answer = await client.post("/", data=form(b"{}", b"rows\xff.jsonl"), headers=HEADERS)
    assert answer.status == 200
    assert (await answer.json(content_type=None))["filename"] == "rows?.jsonl"
