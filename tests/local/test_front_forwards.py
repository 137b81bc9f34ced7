"""The front changes nothing that passes through it: bodies in any coding, odd paths and headers, old clients, slow
ones.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from test_front import running

pytestmark = pytest.mark.timeout(30)

BODY = b'{"prompt": "a"}' * 100


async def raw(client: aiohttp.ClientSession, request: bytes) -> bytes:
    """All that the front answers to bytes of the test's own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client._base_url.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_compressed_body_is_the_replicas_to_read(chunked):
    """With its header; the front neither unpacks nor repacks it."""
    packed = gzip.compress(BODY)

    async def pieces():
        yield packed[:10]
        yield packed[10:]

    async with running(1) as (_, (replica,), client):
        data = pieces() if chunked else packed
        async with client.post("/v1/completions", data=data, headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == 200
        assert replica.bodies == [BODY]  # the replica's own server has unpacked it
        assert replica.seen[0].headers["Content-Encoding"] == "gzip"
        assert ("Transfer-Encoding" in replica.seen[0].headers) == chunked


async def test_a_body_that_is_no_gzip_is_the_replicas_to_refuse():
    """The front does not look into it."""
    headers = {"Content-Encoding": "gzip"}
    async with running(1) as (_, (replica,), client):
        async with aiohttp.request("POST", f"{replica.upstream.url}/a", data=b"no gzip", headers=headers) as answer:
            expected = answer.status, await answer.read()
        async with client.post("/a", data=b"no gzip", headers=headers) as answer:
            assert (answer.status, await answer.read()) == expected
        assert len(replica.seen) == 2


async def test_a_compressed_answer_is_the_clients_to_read():
    """The answer passes as it left the replica, length and all."""
    packed = gzip.compress(BODY)
    async with running(1) as (_, (replica,), client):
        replica.answers["/packed"] = web.Response(body=packed, headers={"Content-Encoding": "gzip", "ETag": '"x"'})
        got = await raw(client, b"GET /packed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = got.partition(b"\r\n\r\n")
        assert body == packed
        assert b"Content-Encoding: gzip" in head
        assert b'etag: "x"' in head.lower()
        assert b"Content-Length: %d" % len(packed) in head


async def test_a_client_that_asks_before_it_sends_is_answered_once():
    """Expect: 100-continue is between it and the front."""
    async with running(1) as (_, (replica,), client):
        async with client.post("/a", data=BODY, expect100=True) as answer:
            assert answer.status == 200
        assert replica.bodies == [BODY]
        assert "Expect" not in replica.seen[0].headers


async def test_head_has_the_length_and_no_body():
    async with running(1) as (_, (replica,), client):
        replica.answers["/file"] = web.Response(body=b"x" * 1234)
        got = await raw(client, b"HEAD /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Length: 1234\r\n" in got
        assert got.endswith(b"\r\n\r\n")


async def test_an_answer_without_a_body_stays_without():
    async with running(1) as (_, (replica,), client):
        replica.answers["/none"] = web.Response(status=204)
        got = await raw(client, b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 204 ")
        assert got.endswith(b"\r\n\r\n")


async def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection():
    """HTTP/1.0 has no chunks."""
    async with running(1) as (_, (replica,), client):
        replica.gate.set()
        got = await raw(client, b"POST /slow HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        head, _, body = got.partition(b"\r\n\r\n")
        assert body == b"data: first\n\ndata: second\n\n"
        assert b"Transfer-Encoding" not in head


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        (b"/v1/models/", b"/v1/models/"),
        (b"//v1///models", b"//v1///models"),
        (b"/v1/models/a%2Fb%20c", b"/v1/models/a%2Fb%20c"),
        (b"/a/../b/./c", b"/a/../b/./c"),
        (b"/line%0Abreak", b"/line%0Abreak"),
        (b"/p?q=%ff&r=1+2&&s", b"/p?q=%ff&r=1+2&&s"),
        (b'/p?q={"a":[1]}', b'/p?q={"a":[1]}'),
        (b"http://other.example/p?q=1", b"/p?q=1"),
        (b"/@other.example/", b"/@other.example/"),
    ],
)
async def test_paths_and_queries_arrive_as_they_were_spelled(target, arrives):
    """The host of a proxy's form is left out."""
    async with running(1) as (_, (replica,), client):
        got = await raw(client, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert replica.seen[0].raw_path.encode() == arrives


@pytest.mark.parametrize(
    "line", [b"OPTIONS *", b"GET @other.example/", b"GET /p?q=\xc3\xa9", b"CONNECT other.example:443"]
)
async def test_what_names_no_path_of_ours_is_refused(line):
    """Whatever host it names is not asked."""
    async with running(1) as (_, (replica,), client):
        got = await raw(client, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got[9:12] in {b"400", b"404"}
        assert not replica.seen


@pytest.mark.parametrize("kilobytes", [9, 60])
async def test_long_headers_and_paths_pass(kilobytes):
    """64 KiB a line, as the engine takes them."""
    long = b"x" * (kilobytes << 10)
    async with running(1) as (_, (replica,), client):
        for head in (b"GET /?q=%b HTTP/1.1\r\n" % long, b"GET / HTTP/1.1\r\nX-Long: %b\r\n" % long):
            got = await raw(client, head + b"Host: x\r\nConnection: close\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 200 "), got[:300]
        assert replica.seen[1].headers["X-Long"] == long.decode()


async def test_a_long_header_of_the_answer_passes():
    async with running(1) as (_, (replica,), client):
        replica.answers["/long"] = web.Response(headers={"X-Long": "y" * (60 << 10)})
        got = await raw(client, b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"X-Long: " + b"y" * (60 << 10) in got


async def test_header_values_that_are_no_utf8_pass():
    """Read as Latin-1, as HTTP has it."""
    async with running(1) as (_, (replica,), client):
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Name: gr\xf6\xdfer\r\nConnection: close\r\n\r\n"
        assert (await raw(client, request)).startswith(b"HTTP/1.1 200 ")
        assert replica.seen[0].headers["X-Name"] == "größer"


async def test_headers_of_one_connection_end_with_it_and_all_others_pass():
    """Headers that Connection names end too; repeated ones stay repeated."""
    headers = [
        ("X-Request-Id", "r-1"), ("Authorization", "Bearer k"), ("Connection", "close, X-Hop"), ("X-Hop", "1"),
        ("TE", "trailers"), ("Cookie", "a=1"), ("X-Twice", "1"), ("X-Twice", "2"), ("Host", "api.example"),
    ]  # fmt: skip
    async with running(1) as (_, (replica,), client):
        replica.answers["/a"] = web.Response(headers={"X-Request-Id": "r-1", "Connection": "X-Hop", "X-Hop": "1"})
        lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
        got = await raw(client, b"GET /a HTTP/1.1\r\n" + lines + b"\r\n")
        seen = replica.seen[0].headers
        assert (seen["X-Request-Id"], seen["Authorization"], seen["Cookie"]) == ("r-1", "Bearer k", "a=1")
        assert seen.getall("X-Twice") == ["1", "2"]
        assert seen["Host"] == "api.example"
        assert not {"X-Hop", "TE"} & set(seen)
        assert b"x-request-id: r-1" in got.lower()
        assert b"x-hop" not in got.lower()


async def test_a_client_that_stops_reading_is_let_go_of():
    """The client's request ends at the replica, too, and counts no longer."""
    async with running(1) as (_, (replica,), client):
        _, writer = await asyncio.open_connection("127.0.0.1", client._base_url.port, limit=1)
        writer.transport.pause_reading()
        writer.write(b"POST /endless HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await replica.cancelled.wait()
        while replica.upstream.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_a_client_that_reads_slowly_is_not():
    """The clock starts again with every bit of progress; each pause is shorter than the front's patience."""
    async with running(1) as (_, (replica,), client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client._base_url.port, limit=1 << 14)
        writer.write(b"POST /endless HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        for _ in range(12):
            await asyncio.sleep(0.2)
            for _ in range(64):
                assert await reader.read(1 << 16)
        assert not replica.cancelled.is_set()
        writer.transport.abort()
        await replica.cancelled.wait()


@pytest.mark.parametrize(
    ("fault", "status", "ready"),
    [
        (OSError(errno.EMFILE, "Too many open files"), 503, [True, True]),
        (OSError(errno.ENFILE, "Too many open files in system"), 503, [True, True]),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), 200, [True, True]),
        (OSError(errno.ECONNREFUSED, "Connection refused"), 200, [False, True]),
        (None, 200, [True, True]),
    ],
    ids=["EMFILE", "ENFILE", "EADDRNOTAVAIL", "ECONNREFUSED", "timeout"],
)
async def test_only_a_refused_connection_says_that_nothing_listens(monkeypatch, fault, status, ready):
    """For want of descriptors no replica is unready; one that can't be reached is passed over for this request."""
    async with running(2) as (front, replicas, client):
        real, asked = front._session.request, []

        async def request(method, url, **more):
            asked.append(url)
            lacking = fault is not None and fault.errno in {errno.EMFILE, errno.ENFILE}
            if len(asked) == 1 or lacking:
                key = SimpleNamespace(host="127.0.0.1", port=url.port, ssl=None, is_ssl=False)
                raise aiohttp.ConnectionTimeoutError if fault is None else aiohttp.ClientConnectorError(key, fault)
            return await real(method, url, **more)

        monkeypatch.setattr(front._session, "request", request)
        async with client.post("/v1/completions", data=BODY) as answer:
            assert answer.status == status
            if status == 503:
                assert answer.headers["Retry-After"]
                assert "file descriptor" in (await answer.json())["error"]["message"]
        assert sorted(replica.upstream.ready for replica in replicas) == ready
