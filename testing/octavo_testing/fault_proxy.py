"""A way to an API server that can be disturbed, request by request.

    with FaultProxy(control_plane) as proxy:
        operator = start(KUBECONFIG=proxy.kubeconfig("octavo-system/octavo"))
        proxy.watch_error(500, path="/llms")                    # each watch of it, open or to come, ends with an ERROR
        proxy.fail(503, verb="list", path="/llms", seconds=75)  # a Status of that code
        proxy.reset(seconds=5)                                  # connections break, open watches too
        proxy.delay(2.0, verb="patch")                          # before the server is asked
        proxy.hang(verb="watch")                                # taken, never answered; open watches fall silent
        proxy.lose_events(path="/llms")                         # watches stay open and lose every event
        proxy.halve_event(path="/llms")                         # half of a watch's next event arrives, and it breaks
        proxy.heal()                                            # all of that is over
        proxy.requests                                          # what passed or was answered here, oldest first

`verb` is the API's (get, list, watch, create, update, patch, delete, deletecollection), "*" any; `path` a regular
expression searched in the path; `times` how often it applies, without end by default; `seconds` for how long.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from octavo_testing.api_client import tls_context
from octavo_testing.control_plane import HOSTS, ControlPlane

REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# Of one connection only, or rewritten by what sends the message on.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "upgrade"}
# The prefix, a namespace if any, the plural, and a name if any.
RESOURCE = re.compile(r"^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/[^/]+(?=/.))?/(?P<plural>[^/]+)(?P<name>/.+)?$")


@dataclass
class Fault:
    """A fault that befalls the requests that match, while it lasts."""

    verb: str
    path: str
    status: int = 0
    watch_error: int = 0
    reset: bool = False
    hang: bool = False
    delay: float = 0.0
    lose_events: bool = False
    halve_event: bool = False
    times: int | None = None
    until: float = float("inf")
    met: int = 0

    def applies(self, verb: str, path: str) -> bool:
        spent = time.monotonic() > self.until or (self.times is not None and self.met >= self.times)
        return not spent and self.verb in {verb, "*"} and re.search(self.path, path) is not None


@dataclass(frozen=True, slots=True)
class Seen:
    """A request: what was asked, what it was answered with (0: nothing), and when it came, by `time.monotonic`."""

    verb: str
    path: str
    status: int
    at: float


@dataclass(eq=False)
class _Watch:
    path: str
    faults: asyncio.Queue[Fault] = field(default_factory=asyncio.Queue)


class FaultProxy:
    """Ends TLS with a certificate of the control plane's authority, so a client needs another address and no more."""

    def __init__(self, control_plane: ControlPlane) -> None:
        control_plane.restart_api_server  # noqa: B018 - a person's cluster says here why it can't, and skips the test
        self._control_plane = control_plane
        self._faults: list[Fault] = []
        self._watches: set[_Watch] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self.requests: list[Seen] = []
        self.server = ""

    def kubeconfig(self, user: str = "admin") -> Path:
        """A kubeconfig that leads through here."""
        return self._control_plane.kubeconfig(user, self.server)

    def fail(
        self, status: int, verb: str = "*", path: str = "", *, seconds: float | None = None, times: int | None = None
    ) -> Fault:
        """Answer with a Status of this code instead of asking the server."""
        return self._add(Fault(verb, path, status=status, times=times), seconds)

    def watch_error(self, code: int, path: str = "", *, seconds: float | None = 0.0, times: int | None = None) -> Fault:
        """End watches by an ERROR event: those that are open, and for so many seconds those to come."""
        return self._add(Fault("watch", path, watch_error=code, times=times), seconds)

    def reset(
        self, verb: str = "*", path: str = "", *, seconds: float | None = None, times: int | None = None
    ) -> Fault:
        """Break connections without a word: those of open watches, and those of requests to come."""
        return self._add(Fault(verb, path, reset=True, times=times), seconds)

    def hang(self, verb: str = "*", path: str = "", *, seconds: float | None = None) -> Fault:
        """Never answer, and let open watches fall silent: a connection that died without a packet saying so."""
        return self._add(Fault(verb, path, hang=True), seconds)

    def lose_events(self, path: str = "", *, seconds: float | None = None) -> Fault:
        """Watches are answered and stay open, but their events never arrive."""
        return self._add(Fault("watch", path, lose_events=True), seconds)

    def halve_event(self, path: str = "", *, times: int = 1) -> Fault:
        """Pass half of a watch's next event, and break its connection."""
        return self._add(Fault("watch", path, halve_event=True, times=times), None)

    def delay(self, delay: float, verb: str = "*", path: str = "", *, seconds: float | None = None) -> Fault:
        """Ask the server so many seconds later."""
        return self._add(Fault(verb, path, delay=delay), seconds)

    def heal(self) -> None:
        """All faults are over. What hangs is cut off: it would not come back by itself on a real network either."""
        self._on_loop(self._heal)

    def counted(self, verb: str = "*", path: str = "", since: float = 0.0) -> int:
        """The number of requests of a kind that came."""
        return sum(s.at >= since and verb in {s.verb, "*"} and bool(re.search(path, s.path)) for s in self.requests)

    def open_watches(self, path: str = "") -> int:
        return sum(bool(re.search(path, watch.path)) for watch in list(self._watches))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the fault proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def _add(self, fault: Fault, seconds: float | None) -> Fault:
        if seconds is not None:
            fault.until = time.monotonic() + seconds

        def add() -> None:
            self._faults.append(fault)
            for watch in self._watches:
                interrupts = fault.watch_error or fault.reset or fault.hang
                if interrupts and fault.verb in {"watch", "*"} and re.search(fault.path, watch.path):
                    fault.met += 1
                    watch.faults.put_nowait(fault)

        self._on_loop(add)
        return fault

    def _heal(self) -> None:
        hung = any(fault.hang for fault in self._faults)
        self._faults.clear()
        if hung:
            self._healed.set()
            self._healed = asyncio.Event()

    def _on_loop(self, call: Any) -> None:
        """Run it in the proxy's thread, and wait until it is done."""

        async def run() -> None:
            call()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    # In the proxy's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._healed = asyncio.Event()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls_context(self._control_plane.endpoint()), limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
        ) as self._session:
            application = web.Application(client_max_size=1 << 26)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(
                application,
                access_log=None,
                handler_cancellation=True,  # a client that goes away ends its watch
                shutdown_timeout=0.1,
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._serving_context())
            await site.start()
            self.server = f"https://127.0.0.1:{runner.addresses[0][1]}"
            self._started.set()
            await self._stop.wait()
            self._heal()
            for watch in self._watches:
                watch.faults.put_nowait(Fault("watch", "", reset=True))
            await runner.cleanup()
        await asyncio.sleep(0.1)  # aiohttp's session leaves its TLS connections to the loop to close

    def _serving_context(self) -> ssl.SSLContext:
        issued = self._control_plane.authority.issue("fault-proxy", HOSTS)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = self._control_plane.folder / "fault-proxy.pem"
        path.touch(0o600)
        path.write_text(issued.certificate + issued.key)
        context.load_cert_chain(path)
        return context

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        verb, at = verb_of(request.method, request.path, request.query), time.monotonic()
        seen = len(self.requests)
        self.requests.append(Seen(verb, request.path, 0, at))
        response = await self._answer(request, verb)
        self.requests[seen] = Seen(verb, request.path, response.status, at)
        return response

    async def _answer(self, request: web.Request, verb: str) -> web.StreamResponse:
        for fault in [fault for fault in self._faults if fault.applies(verb, request.path)]:
            if fault.halve_event:
                continue  # counts when an event has come
            fault.met += 1
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.hang:
                await self._healed.wait()
            if fault.hang or fault.reset:
                return _broken(request)
            if fault.status:
                return web.json_response(status_object(fault.status, request.path), status=fault.status)
            if fault.watch_error:
                return web.Response(body=_error_event(fault.watch_error), content_type="application/json")
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self._control_plane.server + request.raw_path
        try:
            async with self._asked(request.method, url, headers, body) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
                if verb == "watch" and answer.status == 200:
                    return await self._pass_watch(request, answer, kept)
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return _broken(request)  # as the server itself would be: away

    @asynccontextmanager
    async def _asked(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        from yarl import URL

        async with self._session.request(
            method, URL(url, encoded=True), headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            yield answer

    async def _pass_watch(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        watch = _Watch(request.path)
        self._watches.add(watch)
        disturbed = asyncio.ensure_future(watch.faults.get())
        reading: asyncio.Future[bytes] | None = None
        try:
            while True:
                reading = asyncio.ensure_future(answer.content.readline())
                await asyncio.wait([reading, disturbed], return_when=asyncio.FIRST_COMPLETED)
                if disturbed.done():
                    return await self._disturb(request, response, disturbed.result())
                line = reading.result()
                if not line:
                    break
                applying = [fault for fault in self._faults if fault.applies("watch", request.path)]
                if halved := next((fault for fault in applying if fault.halve_event), None):
                    halved.met += 1
                    await response.write(line[: len(line) // 2])
                    if request.transport is not None:
                        request.transport.close()  # after what is written
                    return response
                if not any(fault.lose_events for fault in applying):
                    await response.write(line)
            await response.write_eof()
        except (aiohttp.ClientError, ConnectionError):
            # The server or the client has gone in the middle of it: the other side has to see that, too.
            _broken(request)
        finally:
            self._watches.discard(watch)
            for waiting in (disturbed, reading):
                if waiting is not None:
                    waiting.cancel()
        return response

    async def _disturb(self, request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
        if fault.watch_error:
            with suppress(ConnectionError):
                await response.write(_error_event(fault.watch_error))
                await response.write_eof()
            return response
        if fault.hang:
            await self._healed.wait()
        _broken(request)
        return response


def verb_of(method: str, path: str, query: Any) -> str:
    """The verb that RBAC and the audit log know a request by; for what is no resource, the method in lower case."""
    resource = RESOURCE.match(path)
    if resource is None:
        return method.lower()
    if method == "GET":
        if query.get("watch") in {"1", "true"}:
            return "watch"
        return "get" if resource["name"] else "list"
    if method == "DELETE" and not resource["name"]:
        return "deletecollection"
    return VERBS.get(method, method.lower())


def status_object(code: int, path: str = "") -> dict[str, Any]:
    """A Kubernetes Status, as the API server writes one."""
    reason = REASONS.get(code, "")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"injected by a test: {reason} {path}".rstrip(),
        "reason": reason,
        "code": code,
    }


def _error_event(code: int) -> bytes:
    return json.dumps({"type": "ERROR", "object": status_object(code)}).encode() + b"\n"


def _broken(request: web.Request) -> web.Response:
    """Break the client's connection; the response is never sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)
