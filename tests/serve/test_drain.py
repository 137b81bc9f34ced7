"""No request is lost when a server ends: not one that runs, not one that still arrives, on whatever connection."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from types import SimpleNamespace
from typing import Self

import pytest
from aiohttp import web
from e2e.traffic import Traffic
from octavo_testing.served import Served, until, write_model

from octavo_engine.server import connections
from octavo_engine.server.app import _close_in_time
from octavo_engine.server.connections import Connections
from octavo_engine.server.context import CONTEXT

BODY = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tokenizer and no weights."""
    return write_model(tmp_path_factory.mktemp("model"))


def connection(server) -> http.client.HTTPConnection:
    host, port = server.url.removeprefix("http://").split(":")
    return http.client.HTTPConnection(host, int(port), timeout=30)


def ask(kept: http.client.HTTPConnection, **fields) -> tuple[int, str | None]:
    """Status and Connection header of a completion over a connection that may be kept alive."""
    kept.request("POST", "/v1/completions", json.dumps({**BODY, **fields}), {"Content-Type": "application/json"})
    response = kept.getresponse()
    response.read()
    return response.status, response.getheader("Connection")


def test_what_arrives_while_it_drains_is_answered_too(model):
    """Proxies send requests until they have heard; readiness is false at once, so that they hear."""
    with Served(model, step_seconds=0.01) as server, contextlib.closing(connection(server)) as kept:
        assert ask(kept) == (200, None)
        server.signal()
        until(lambda: server.get("/health")[0] == 503, 5)
        assert ask(kept) == (200, "close"), "a connection from before learns with its answer that it is the last"
        assert server.post("/v1/completions", BODY)[0] == 200, "so is one that is opened only now"
        assert server.wait() == 0, server.output


@pytest.mark.slow
def test_a_connection_that_is_kept_alive_is_not_closed_right_after_its_request(model):
    """The client's next request may be on its way; the server waits until none has come for a moment."""
    with Served(model) as server, contextlib.closing(connection(server)) as kept:
        assert ask(kept) == (200, None)
        server.signal()
        began = time.monotonic()
        time.sleep(1)
        assert ask(kept)[0] == 200
        assert server.wait() == 0
        assert time.monotonic() - began > 2.9, "two seconds after the last request"


def test_a_server_without_requests_ends_at_once(model):
    """Open connections alone, as of a scrape or of a browser, hold up nothing."""
    with Served(model) as server, contextlib.closing(connection(server)) as kept:
        kept.request("GET", "/health")
        kept.getresponse().read()
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began < 1.5


@pytest.mark.slow
def test_what_could_not_be_finished_is_refused_before_it_begins(model):
    """In the second half of the drain: a 503 loses nothing, a stream that is cut off does."""
    with Served(model, "--shutdown-timeout", "4", step_seconds=0.015) as server:

        async def run() -> tuple[list[tuple], int]:
            long = asyncio.create_task(asyncio.to_thread(server.post, "/v1/completions", {**BODY, "max_tokens": 240}))
            await asyncio.sleep(0.5)
            server.signal()
            answers, end = [], time.monotonic() + 2.3
            while time.monotonic() < end:
                answers.append(await asyncio.to_thread(server.post, "/v1/completions", BODY))
            return answers, (await long)[0]

        answers, long = asyncio.run(run())
        statuses = [status for status, _, _ in answers]
        assert long == 200
        assert statuses.count(200) > 10
        assert statuses == sorted(statuses), "once refused, no other is let in before it"
        status, answer, headers = answers[-1]
        assert (status, headers["retry-after"]) == (503, "1")
        assert "ask another replica" in answer["error"]["message"]
        assert server.wait() == 0


class Balancer:
    """A stand-in for kube-proxy: a new connection goes to a backend that is ready, and stays there while it lives."""

    def __init__(self) -> None:
        self.backends: list[int] = []
        self._turn = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn += 1
        there = await asyncio.open_connection("127.0.0.1", self.backends[self._turn % len(self.backends)])
        await asyncio.gather(_pipe(reader, there[1]), _pipe(there[0], writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@pytest.mark.slow
@pytest.mark.once
def test_replicas_are_replaced_under_load_without_a_failed_request(model):
    """Over a thousand requests, kept-alive and not, streamed and not; each is accounted for."""

    async def run() -> Traffic:
        async with Balancer() as balancer:
            loop = asyncio.get_running_loop()
            old = await loop.run_in_executor(None, lambda: Served(model, step_seconds=0.002))
            balancer.backends = [_port(old)]
            traffic = Traffic(f"http://127.0.0.1:{balancer.port}", str(model), clients=12, max_tokens=6)
            running = asyncio.create_task(traffic.run())
            for _ in range(3):
                new = await loop.run_in_executor(None, lambda: Served(model, step_seconds=0.002))
                balancer.backends = [_port(old), _port(new)]
                await asyncio.sleep(1)
                old.signal()
                await asyncio.sleep(0.5)  # the proxy's list of backends changes only now
                balancer.backends = [_port(new)]
                assert await loop.run_in_executor(None, old.wait) == 0, old.output
                old.close()
                old = new
            while traffic.account.num_answered <= 1000:  # noqa: ASYNC110 — a busy machine takes longer for them
                await asyncio.sleep(0.1)
            traffic.stop()
            await running
            old.close()
            return traffic

    account = asyncio.run(run()).account
    assert account.failures == []
    assert account.num_answered > 1000
    for kind in ("kept-alive stream", "kept-alive whole"):
        assert account.answered[kind] > 10 * account.connections[kind], "they did keep their connections"


def _port(server: Served) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.slow
def test_the_driver_calls_a_failure_a_failure(model):
    """A server that is killed: resets and cut streams are counted, each with its cause and time."""

    async def run() -> Traffic:
        loop = asyncio.get_running_loop()
        server = await loop.run_in_executor(None, lambda: Served(model, step_seconds=0.01))
        traffic = Traffic(server.url, str(model), clients=8, max_tokens=50)
        running = asyncio.create_task(traffic.run())
        while traffic.account.num_answered < 16:  # noqa: ASYNC110 — by then every client is at work
            await asyncio.sleep(0.05)
        server.process.kill()
        await asyncio.sleep(0.5)
        traffic.stop()
        await running
        server.close()
        return traffic

    account = asyncio.run(run()).account
    causes = " ".join(failure["cause"] for failure in account.failures)
    assert len(account.failures) >= 8, "each client had one under way"
    assert "ClientPayloadError" in causes, "a stream that was cut short"
    assert "ServerDisconnectedError" in causes or "reset" in causes
    assert account.begun == account.num_answered + len(account.failures)


async def test_an_old_connection_is_closed_with_its_answer_so_that_clients_spread():
    """Replicas that were added later get their share of those that keep connections alive."""
    now = [0.0]
    app = web.Application()
    app[CONTEXT] = SimpleNamespace(draining=False, connections=Connections(lambda: now[0]))

    async def answer(_request):
        return web.Response(text="ok")

    app.router.add_get("/", answer)
    app.on_response_prepare.append(_close_in_time)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kept = http.client.HTTPConnection(*runner.addresses[0][:2], timeout=10)

    async def header() -> str | None:
        def get() -> str | None:
            kept.request("GET", "/")
            response = kept.getresponse()
            response.read()
            return response.getheader("Connection")

        return await asyncio.to_thread(get)

    assert await header() is None
    now[0] = connections.LONGEST_LIFE_S * (1 - connections.SPREAD) - 1
    assert await header() is None
    now[0] = connections.LONGEST_LIFE_S * (1 + connections.SPREAD)
    assert await header() == "close"
    assert await header() is None, "the next one is new"
    kept.close()
    await runner.cleanup()


def test_connections_that_are_forgotten_are_not_remembered():
    """A server lives for months; what it keeps of a connection goes with it."""

    async def run() -> int:
        known = Connections()
        for _ in range(100):
            known.has_grown_old(asyncio.create_task(asyncio.sleep(0)))
        await asyncio.sleep(0.01)
        return len(known._ends)

    assert asyncio.run(run()) <= 1


@pytest.mark.slow
def test_the_listener_accepts_until_the_last_moment(model):
    """A connection that waits in the backlog would be reset by a listener that closes early."""
    with Served(model, step_seconds=0.02) as server:

        async def run() -> int:
            long = asyncio.create_task(asyncio.to_thread(server.post, "/v1/completions", {**BODY, "max_tokens": 50}))
            await asyncio.sleep(0.3)
            server.signal()
            while not long.done():
                with socket.create_connection(("127.0.0.1", _port(server)), timeout=5):
                    await asyncio.sleep(0.05)
            return (await long)[0]

        assert asyncio.run(run()) == 200
        assert server.wait() == 0
