"""The front of several replicas: one port, each request to the replica with the least to do.

Bodies and headers pass as they are, API keys and encodings included, and stream both ways. A request is tried elsewhere
only if it never reached a replica: its connection was refused or not accepted. Of the OpenAI API it uses only the
shape of an error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from octavo_operator.exposition import merge
from octavo_operator.local.upstream import LONGEST_HEADER, Upstream, lacks_descriptors, refuses

# RFC 9110, section 7.6.1: these belong to one connection.
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
ANSWERED_HERE = frozenset({"expect"})  # the front has sent 100 Continue itself
RETRY_AFTER_S = "2"
STALL_S = 120.0  # a client that takes nothing for so long is gone; the engine's own limit
FREE_BUFFER = 1 << 16  # bytes that a connection takes without waiting for its client


class Front:
    """An aiohttp application over a fixed list of upstreams, whose state others keep."""

    def __init__(
        self, upstreams: Sequence[Upstream], session: aiohttp.ClientSession, *, stall_s: float = STALL_S
    ) -> None:
        """`session` is `upstream.session()`'s."""
        self.upstreams = upstreams
        self._session = session
        self._stall_s = stall_s
        self._turn = 0

    def runner(self) -> web.AppRunner:
        """Passes bodies on as they came, and ends a request upstream when its client goes away."""
        return web.AppRunner(
            self._application(),
            handler_cancellation=True,
            auto_decompress=False,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            access_log=None,
            shutdown_timeout=1,
        )

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/load", self._load)
        application.router.add_route("*", r"/{path:[\s\S]*}", self._forward)
        return application

    def choose(self, tried: set[str]) -> Upstream | None:
        """The ready upstream with the shortest queue that this request has not reached; equals alternate."""
        ready = [u for u in self.upstreams if u.ready and not u.draining and u.port is not None and u.name not in tried]
        if not ready:
            return None
        self._turn += 1
        count = len(self.upstreams)
        turn = {u.name: (i - self._turn) % count for i, u in enumerate(self.upstreams)}
        return min(ready, key=lambda u: (u.load, turn[u.name]))

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        return web.Response() if any(u.ready for u in self.upstreams) else _none_ready()

    async def _load(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"server_load": sum(u.in_flight for u in self.upstreams)})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        running = [u for u in self.upstreams if u.port is not None]
        texts = await asyncio.gather(*(self._metrics_of(u, request) for u in running))
        by_replica = {u.name: text for u, text in zip(running, texts, strict=True) if text is not None}
        return web.Response(
            text=merge(by_replica), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _metrics_of(self, upstream: Upstream, request: web.Request) -> str | None:
        """Fetch a replica's metrics; None where it does not answer: the others' are of use anyway."""
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            headers = _end_to_end(request.headers)
            async with self._session.get(f"{upstream.url}/metrics", headers=headers, timeout=timeout) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        tried: set[str] = set()
        while (upstream := self.choose(tried)) is not None:
            tried.add(upstream.name)
            upstream.in_flight += 1
            try:
                return await self._exchange(request, upstream)
            except aiohttp.ClientConnectorError as error:
                if lacks_descriptors(error):
                    return _later("octavo up has no file descriptor left for another connection", "raise `ulimit -Hn`")
                if refuses(error):
                    upstream.ready = False  # nothing listens there; until a probe succeeds
            except aiohttp.ConnectionTimeoutError:
                continue  # it accepts nothing now: what that means is for its probes
            except _ReplicaLostError as error:
                message = f"replica {upstream.name} ended while it answered: {error}"
                return _error(502, message, "it may have been processed: decide whether to send it again")
            finally:
                upstream.in_flight -= 1
        return _none_ready()

    async def _exchange(self, request: web.Request, upstream: Upstream) -> web.StreamResponse:
        """Send the request, and stream what comes back.

        Raises ClientConnectorError or ConnectionTimeoutError where it never reached the replica, _ReplicaLostError where
        it may have, and the client has nothing of an answer yet.
        """
        try:
            answer = await self._session.request(
                request.method,
                URL(f"{upstream.url}{_target(request)}", encoded=True),
                headers=_end_to_end(request.headers, ANSWERED_HERE),
                data=request.content.iter_any() if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except aiohttp.ClientError as error:
            raise _ReplicaLostError(str(error) or type(error).__name__) from error
        async with answer:
            headers = _end_to_end(answer.headers)
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
            await response.prepare(request)
            while True:
                try:
                    chunk = await answer.content.readany()
                except aiohttp.ClientError:
                    return await self._cut_off(request, response, upstream)
                if not await self._taken(request, response.write(chunk) if chunk else response.write_eof(), len(chunk)):
                    return response
                if not chunk:
                    return response

    async def _taken(self, request: web.Request, writing: Coroutine[Any, Any, None], size: int) -> bool:
        """Write to the client; False, and the connection cut, if it takes nothing for too long."""
        transport = request.transport
        if transport is None or transport.get_write_buffer_size() + size < FREE_BUFFER:
            await writing
            return True
        task = asyncio.ensure_future(writing)
        try:
            while True:
                left = transport.get_write_buffer_size()
                done, _ = await asyncio.wait({task}, timeout=self._stall_s)
                if done:
                    await task
                    return True
                if transport.get_write_buffer_size() >= left:
                    transport.abort()
                    return False
        finally:
            task.cancel()

    async def _cut_off(
        self, request: web.Request, response: web.StreamResponse, upstream: Upstream
    ) -> web.StreamResponse:
        """The replica ended in the middle of its answer: the client must not take that for the whole."""
        if response.headers.get("Content-Type", "").startswith("text/event-stream"):
            message = f"replica {upstream.name} ended in the middle of this answer"
            event = {"error": {"message": message, "type": "replica_lost", "param": None, "code": 502}}
            data = f"data: {json.dumps(event)}\n\n".encode()
            await self._taken(request, response.write(data), len(data))
        if request.transport is not None:
            request.transport.close()  # without the end that a whole body has
        return response


class _ReplicaLostError(Exception):
    """The replica went away after it may have read the request."""


def _target(request: web.Request) -> str:
    """Path and query as the client spelled them, without the scheme and host that a proxy is asked with."""
    return request.raw_path if request.raw_path.startswith("/") else str(request.rel_url)


def _end_to_end(headers: CIMultiDictProxy[str], left_out: frozenset[str] = frozenset()) -> CIMultiDict[str]:
    named = {name.strip().lower() for value in headers.getall("Connection", []) for name in value.split(",")}
    dropped = HOP_BY_HOP | named | left_out
    return CIMultiDict((k, _writable(v)) for k, v in headers.items() if k.lower() not in dropped)


def _writable(value: str) -> str:
    """Bytes that are not UTF-8 are read as Latin-1, HTTP's own encoding: aiohttp can't write them raw."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def _none_ready() -> web.Response:
    return _later("no replica is ready", "try again soon")


def _later(message: str, remedy: str) -> web.Response:
    response = _error(503, message, remedy)
    response.headers["Retry-After"] = RETRY_AFTER_S
    return response


def _error(status: int, message: str, remedy: str) -> web.Response:
    error = {"message": f"{message}; {remedy}", "type": "service_unavailable", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
