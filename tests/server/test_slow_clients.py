"""Clients that are slow or gone: they may be slow for as long as they go on, and cost nothing once they do not."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st

from octavo_engine.config import EngineConfig, ModelConfig, ServerConfig
from octavo_engine.errors import QueueFullError, RequestError
from octavo_engine.server import http_server
from octavo_engine.server.answer import delivery
from octavo_engine.server.answer.error_responses import errors_as_json
from octavo_engine.server.intake import request_body
from octavo_engine.server.intake.limits import VANISHED_SECONDS, limits_of
from octavo_engine.server.intake.request_body import BodyBudget, check_values, plain_body
from octavo_engine.server.listener import bind
from octavo_engine.server.pools import Pools
from octavo_engine.text import json_values

LIMITS = limits_of(EngineConfig(model=ModelConfig(model="m", served_model_names=("m",))), 64)


@asynccontextmanager
async def serving(handler):
    @web.middleware
    async def errors(request, handler):
        return await errors_as_json(request, handler)

    app = web.Application(middlewares=[errors])
    app.router.add_post("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


async def length(request):
    with BodyBudget(2**30).share() as share:
        return web.Response(text=str(len(await plain_body(request, LIMITS, Pools(), share))))


async def test_a_body_that_stops_is_refused_and_a_slow_one_is_read(monkeypatch):
    """408 once it has fallen behind the slowest pace that is let pass."""
    monkeypatch.setattr(request_body, "BODY_GRACE_SECONDS", 1.0)
    monkeypatch.setattr(request_body, "SLOWEST_BODY", 10)

    async def pieces(count):
        for _ in range(count):
            yield b"x" * 20  # two seconds' worth
            await asyncio.sleep(0.2)
        if count < 10:
            await asyncio.sleep(60)

    async with serving(length) as (host, port), ClientSession(f"http://{host}:{port}") as client:
        async with client.post("/", data=pieces(10)) as answer:
            assert (answer.status, await answer.text()) == (200, "200")
        async with client.post("/", data=pieces(1)) as answer:
            assert answer.status == 408
            assert (await answer.json())["error"]["type"] == "RequestTimeoutError"
            assert answer.headers["Connection"] == "close"


class Transport:
    """A socket's buffer, as the writer sees it."""

    def __init__(self) -> None:
        self.unsent = 100
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


async def test_an_answer_waits_while_its_client_takes_any_of_it(monkeypatch):
    """The clock starts again with each byte that is taken; a client that takes none for so long is cut off."""
    monkeypatch.setattr(delivery, "STALL_SECONDS", 0.1)
    request = SimpleNamespace(transport=Transport())
    written = asyncio.get_running_loop().create_future()
    delivered = asyncio.create_task(delivery.deliver(request, written))

    looks, looked = 0, asyncio.Event()
    sizes = request.transport.get_write_buffer_size

    def look() -> int:
        nonlocal looks
        looks += 1
        if looks == 10:
            looked.set()
        request.transport.unsent -= 1  # between any two looks, a byte
        return sizes()

    request.transport.get_write_buffer_size = look
    await asyncio.wait_for(looked.wait(), 20)
    assert not delivered.done()
    request.transport.get_write_buffer_size = sizes
    with pytest.raises(ConnectionResetError, match="stopped reading"):
        await asyncio.wait_for(delivered, 20)
    assert request.transport.aborted
    assert written.cancelled()


async def test_a_whole_answer_is_written_before_its_request_counts_as_answered():
    """A drain therefore waits for it, too."""
    seen = []

    async def handler(request):
        response = web.Response(body=b"x" * 100_000)
        await delivery.send(request, response)
        seen.append(response.prepared)
        return response

    async with (
        serving(handler) as (host, port),
        ClientSession(f"http://{host}:{port}") as client,
        client.post("/") as answer,
    ):
        assert len(await answer.read()) == 100_000
    assert seen == [True]


def test_all_bodies_together_are_bounded_and_given_back():
    """Memory is given back where one of them fails, too."""
    budget = BodyBudget(100)
    with budget.share() as first:
        first.take(60)
        with budget.share() as second:
            second.take(30)
            with pytest.raises(QueueFullError):
                second.take(30)
        assert budget.used == 60
        first.give_back()
        assert budget.used == 0
    assert budget.used == 0


def test_values_are_counted_outside_of_strings():
    """Commas of a text are no values, whatever is escaped in it."""
    check_values(b'{"prompt": "' + b"a, [{" * 1000 + b'\\\\\\", [[[[[[[[[["}', 10)
    for data in (b"[" + b"1," * 7 + b"1]", b"[[[", b"{}" * 11, b'["a,","b"' + b',"c"' * 10 + b"]"):
        with pytest.raises(RequestError, match="more than 10 values"):
            check_values(data, 10)


@given(texts=st.lists(st.text(alphabet='a\\\\",:[{ é', max_size=9), min_size=1, max_size=9), chunk=st.integers(1, 40))
def test_strings_are_passed_over_wherever_a_stretch_of_the_body_ends(texts, chunk):
    """Escapes and quotes may lie on both sides of it."""
    body = json.dumps({"prompt": texts, "n": [1, 2, {"a": []}]}).encode()
    plain = json.dumps({"prompt": ["" for _ in texts], "n": [1, 2, {"a": []}]}).encode()
    values = plain.count(b",") + plain.count(b"{") + 4 * plain.count(b"[") + 3 * plain.count(b":")
    with patch.object(json_values, "STRETCH", chunk):
        check_values(body, values)
        with pytest.raises(RequestError, match=f"more than {values - 1} values"):
            check_values(body, values - 1)


def test_members_of_objects_count_for_more():
    """Each costs four times as much as an element of a list."""
    check_values(json.dumps({str(i): i for i in range(100)}).encode(), 401)
    with pytest.raises(RequestError, match="more than 390 values"):
        check_values(json.dumps({str(i): i for i in range(100)}).encode(), 390)


@pytest.mark.parametrize("read", [True, False])
async def test_others_have_their_turn_within_a_body_of_tiny_chunks(read):
    """A turn of the event loop is bounded by chunks as well as bytes, whether the body is read or left."""
    chunks = 60_000
    progress = [0]

    async def watch(content):
        while progress[-1] < chunks:
            progress.append(content.total_bytes)
            await asyncio.sleep(0)

    async def handler(request):
        watching.append(asyncio.create_task(watch(request.content)))
        return await length(request) if read else web.Response(text="unread")

    watching: list[asyncio.Task[None]] = []
    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = await http_server.listen(runner, listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\n \r\n" * chunks + b"0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await watching[0]
        listening.close()
        await runner.cleanup()
    assert answer.endswith(str(chunks).encode() if read else b"unread")
    turns = [after - before for before, after in pairwise(progress)]
    assert max(turns) <= http_server.READ_BUFFER // 16 + request_body.PIECE


def test_the_kernel_ends_connections_whose_client_has_vanished():
    """Accepted connections have the option from the listener."""
    with bind(ServerConfig(host="127.0.0.1", port=0)) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                timeout = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert timeout == VANISHED_SECONDS * 1000
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == VANISHED_SECONDS // 2


async def test_a_connection_without_a_request_is_closed(monkeypatch):
    """Half a head is none; one that has asked may wait for its next request."""
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.5)

    async def handler(_request):
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    listener = bind(ServerConfig(host="127.0.0.1", port=0))
    server = await http_server.listen(runner, listener)
    address = listener.getsockname()
    silent, writer = await asyncio.open_connection(*address)
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    asking, other = await asyncio.open_connection(*address)
    for _ in range(2):
        other.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asking.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        assert await asyncio.wait_for(silent.read(), 10) == b""
    for each in (writer, other):
        each.close()
    server.close()
    await runner.cleanup()
