"""The front: the shortest queue gets the request, bodies stream, and only what never arrived is tried elsewhere."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from octavo_operator.local import upstream
from octavo_operator.local.front import Front
from octavo_operator.local.replica import free_port
from octavo_operator.local.upstream import Upstream, refresh
from octavo_operator.planner.plan import Probe

pytestmark = pytest.mark.timeout(30)

PROBE = Probe("/health", 1, 1, 2)


class FakeReplica:
    """An upstream with a server behind it; what it saw is at hand."""

    def __init__(self, name: str) -> None:
        self.upstream = Upstream(name, ready=True)
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.reported = 0
        self.healthy = True
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.answers: dict[str, web.Response] = {}  # by path
        self._runner: web.AppRunner | None = None
        self._transports: list[asyncio.Transport] = []

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_post("/slow", self._slow)
        application.router.add_post("/cut", self._cut)
        application.router.add_post("/endless", self._endless)
        application.router.add_route("*", r"/{path:[\s\S]*}", self._echo)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, shutdown_timeout=0, max_line_size=1 << 16, max_field_size=1 << 16
        )
        await self._runner.setup()
        self.upstream.port = free_port()
        await web.TCPSite(self._runner, "127.0.0.1", self.upstream.port).start()

    async def stop(self) -> None:
        """End like a process that is killed: connections end where they are."""
        for transport in self._transports:
            transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            text=f'vllm:num_requests_running{{m="x"}} 1\nvllm:num_requests_waiting{{m="x"}} {self.reported}\n'
        )

    async def _echo(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        self.bodies.append(await request.read())
        if request.path in self.answers:
            return self.answers[request.path]
        return web.Response(
            text=self.upstream.name, status=int(request.query.get("status", "200")), headers={"X-Seen": request.path_qs}
        )

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        """Two events, the second one when the gate opens."""
        self._transports.append(request.transport)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await response.write(b"data: second\n\n")
        return response

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        """More than any buffer holds."""
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * (1 << 16))
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled.set()
            raise

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        """Half of an answer, and then the connection is gone."""
        kind = request.query.get("kind", "text/event-stream")
        response = web.StreamResponse(headers={"Content-Type": kind})
        if "sized" in request.query:
            response.content_length = 1000
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response


@contextlib.asynccontextmanager
async def running(count: int):
    """The front's URL, its replicas, and a client."""
    replicas = [FakeReplica(f"r-{i}") for i in range(count)]
    for replica in replicas:
        await replica.start()
    async with upstream.session() as session:
        front = Front([replica.upstream for replica in replicas], session, stall_s=0.5)
        runner = front.runner()
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                yield front, replicas, client
        finally:
            await runner.cleanup()
            for replica in replicas:
                await replica.stop()


async def test_equal_replicas_take_turns():
    async with running(3) as (_, _replicas, client):
        names = [await (await client.get("/v1/models")).text() for _ in range(6)]
    assert sorted(names) == ["r-0", "r-0", "r-1", "r-1", "r-2", "r-2"]


async def test_the_shortest_queue_gets_the_request():
    async with running(2) as (_, replicas, client):
        replicas[0].reported = 5
        for replica in replicas:
            await refresh(client, replica.upstream, PROBE)
        names = {await (await client.post("/v1/completions", data=b"{}")).text() for _ in range(4)}
    assert names == {"r-1"}


async def test_requests_in_flight_count_before_any_metrics_are_read():
    async with running(2) as (front, replicas, client):
        streams = [await client.post("/slow") for _ in range(4)]
        assert [replica.upstream.in_flight for replica in replicas] == [2, 2]
        for replica in replicas:
            replica.gate.set()
        for stream in streams:
            await stream.read()
        assert sum(u.load for u in front.upstreams) == 0


async def test_a_stream_arrives_as_it_is_made():
    async with running(1) as (_, (replica,), client), client.post("/slow") as response:
        assert await response.content.readany() == b"data: first\n\n"
        assert not replica.gate.is_set()
        replica.gate.set()
        assert await response.content.read() == b"data: second\n\n"


async def test_path_query_headers_and_body_pass_as_they_are():
    async with running(1) as (_, (replica,), client):
        headers = {"Authorization": "Bearer key", "X-Request-Id": "7", "Connection": "x-secret", "X-Secret": "hop"}
        async with client.post("/v1/a%2Fb?x=1&y=%20", data=b"body" * 1000, headers=headers) as response:
            assert response.headers["X-Seen"] == "/v1/a%2Fb?x=1&y=%20"
        request = replica.seen[0]
        assert request.headers["Authorization"] == "Bearer key"
        assert request.headers["X-Request-Id"] == "7"
        assert "X-Secret" not in request.headers
        assert replica.bodies == [b"body" * 1000]


async def test_a_request_body_streams_too():
    async with running(1) as (_, (replica,), client):

        async def parts():
            for i in range(5):
                yield f"{i}".encode() * 70_000

        await client.post("/v1/completions", data=parts())
        assert replica.bodies == [b"".join(f"{i}".encode() * 70_000 for i in range(5))]


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_replicas_error_is_the_clients(status):
    async with running(2) as (_, replicas, client):
        response = await client.get(f"/v1/x?status={status}")
        assert response.status == status
        assert sum(len(replica.seen) for replica in replicas) == 1


async def test_a_request_that_never_arrived_is_tried_elsewhere():
    async with running(3) as (front, replicas, client):
        await replicas[0].stop()
        await replicas[1].stop()
        for _ in range(4):
            response = await client.post("/v1/completions", data=b"{}")
            assert (response.status, await response.text()) == (200, "r-2")
        assert [u.ready for u in front.upstreams] == [False, False, True]


async def test_a_request_that_may_have_arrived_is_not_sent_twice():
    async def read_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    async with running(2) as (front, replicas, client):
        server = await asyncio.start_server(read_and_hang_up, "127.0.0.1", 0)
        await replicas[0].stop()
        front.upstreams[0].port = server.sockets[0].getsockname()[1]
        responses = [await client.post("/v1/completions", data=b"{}") for _ in range(2)]
        assert sorted(r.status for r in responses) == [200, 502]
        broken = next(r for r in responses if r.status == 502)
        assert "it may have been processed" in (await broken.json())["error"]["message"]
        assert len(replicas[1].seen) == 1
        server.close()


async def test_a_stream_whose_replica_dies_ends_with_an_error_and_not_as_if_whole():
    async with running(1) as (_, _replicas, client):
        async with client.post("/cut") as response:
            got = b""
            with contextlib.suppress(aiohttp.ClientError):
                async for chunk in response.content.iter_any():
                    got += chunk
        assert got.startswith(b"data: first\n\n")
        assert b"replica r-0 ended in the middle of this answer" in got
        assert b"[DONE]" not in got


async def test_a_body_whose_replica_dies_is_cut_off():
    async with running(1) as (_, _replicas, client):
        for query in ("kind=application/json", "kind=application/json&sized=1"):
            async with client.post(f"/cut?{query}") as response:
                with pytest.raises(aiohttp.ClientError):
                    await response.read()


async def test_a_client_that_goes_away_ends_its_request_at_the_replica():
    async with running(1) as (front, (replica,), client):
        response = await client.post("/slow")
        await response.content.readany()
        response.close()
        await asyncio.wait_for(replica.cancelled.wait(), 5)
        for _ in range(50):
            if front.upstreams[0].in_flight == 0:
                break
            await asyncio.sleep(0.02)
        assert front.upstreams[0].in_flight == 0


async def test_without_a_ready_replica_a_client_gets_retry_after():
    async with running(2) as (front, _replicas, client):
        assert (await client.get("/health")).status == 200
        for upstream in front.upstreams:
            upstream.ready = False
        for path in ("/health", "/v1/models"):
            response = await client.get(path)
            assert response.status == 503
            assert response.headers["Retry-After"] == "2"
            assert "no replica is ready" in (await response.json())["error"]["message"]


async def test_a_replica_that_drains_gets_nothing_new():
    async with running(2) as (front, _replicas, client):
        front.upstreams[0].draining = True
        assert {await (await client.get("/v1/models")).text() for _ in range(4)} == {"r-1"}


async def test_readiness_follows_the_health_check_with_its_threshold():
    async with running(1) as (_, (replica,), client):
        upstream = replica.upstream
        upstream.ready = False
        await refresh(client, upstream, PROBE)
        assert upstream.ready
        replica.healthy = False
        await refresh(client, upstream, PROBE)
        assert upstream.ready
        await refresh(client, upstream, PROBE)
        assert not upstream.ready


async def test_metrics_of_all_replicas_are_one_page():
    async with running(2) as (_, _replicas, client):
        text = await (await client.get("/metrics")).text()
    assert 'vllm:num_requests_running{m="x",replica="r-0"} 1' in text
    assert 'vllm:num_requests_running{m="x",replica="r-1"} 1' in text


async def test_many_streams_survive_the_death_of_another_replica():
    async with running(3) as (_, replicas, client):
        streams = [await client.post("/slow") for _ in range(30)]
        await replicas[2].stop()
        for replica in replicas[:2]:
            replica.gate.set()
        whole = 0
        for stream in streams:
            with contextlib.suppress(aiohttp.ClientError):
                whole += (await stream.read()).endswith(b"data: second\n\n")
        assert whole == 20
