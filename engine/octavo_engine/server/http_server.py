"""HTTP below the application: how large a request's head may be, and what malformed HTTP is answered with.

aiohttp answers what it can't parse with text that quotes it, and logs the same; a quoted header may hold a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import socket
import ssl
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import (
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
    TransferEncodingError,
)
from aiohttp.http_parser import RawRequestMessage

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import error_response, errors_as_json
from octavo_engine.server.http_series import HttpSeries, counted
from octavo_engine.server.intake.limits import HEAD_SECONDS
from octavo_engine.server.intake.request_body import pieces_of

logger = logging.getLogger(__name__)

MAX_TARGET = 32 * 1024  # bytes of path and query
MAX_HEADER = 64 * 1024  # bytes of one header, name and value: tokens of identity providers take some 10 KB
MAX_HEADERS = 128
KEEPALIVE_SECONDS = 3630.0  # longer than a proxy's (Envoy's hour): who closes an idle connection should be the client
BACKLOG = 2048
READ_BUFFER = 64 * 1024  # bytes, and a sixteenth of it chunks, that are parsed at once and held until they are read
LINGER_SECONDS = 10.0  # for what is left of a body that was not read: a closed connection could lose the answer
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": KEEPALIVE_SECONDS,
    "auto_decompress": False,  # `request_body` does it, and says what is wrong
    "max_line_size": MAX_TARGET,
    "max_field_size": MAX_HEADER,
    "max_headers": MAX_HEADERS,
    "read_bufsize": READ_BUFFER,
    "lingering_time": 0.0,  # `Connection` does it, in turns with others
}

_SLASHES = re.compile("//+")


async def listen(
    runner: web.AppRunner,
    listener: socket.socket,
    series: HttpSeries | None = None,
    tls: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Serve the application of `runner` at `listener`, in plain HTTP or over `tls`, counted in `series`. Raises OSError."""
    await runner.setup()
    server = runner.server
    assert server is not None
    handler, make_request = server.request_handler, server.request_factory
    answer = functools.partial(errors_as_json, handler=handler)
    server.request_handler = functools.partial(counted, handler=answer, series=series or HttpSeries())
    server.request_factory = lambda message, *rest: make_request(_with_tidy_path(message), *rest)
    loop = asyncio.get_running_loop()
    make_connection = functools.partial(Connection, server, loop=loop, **OPTIONS)
    handshake = None if tls is None else HEAD_SECONDS
    return await loop.create_server(
        make_connection, sock=listener, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=handshake
    )


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_asked",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept as aiohttp does, but do not keep the connection of a client that asks for nothing."""
        super().connection_made(transport)
        self._asked = False
        asyncio.get_running_loop().call_later(HEAD_SECONDS, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if not self._asked:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parse as aiohttp does, but do not wait for the rest of a body that turns out to be malformed."""
        super().data_received(data)
        self._asked = self._asked or bool(self._messages)
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        request = self._current_request
        bodies = [payload for _, payload in self._messages] + ([request.content] if request is not None else [])
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("malformed"))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Finish as aiohttp does, then read what the handler left of the body."""
        answered = await super().finish_response(request, resp, start_time)
        if self.connected and not request.content.is_eof():
            with contextlib.suppress(OSError, web.RequestPayloadError, HttpProcessingError):
                async with asyncio.timeout(LINGER_SECONDS):
                    async for _ in pieces_of(request.content):
                        pass
        return answered

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 — it quotes what was sent
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, or to what went wrong outside of any handler."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone away in the middle of its answer
        if isinstance(exc, HttpProcessingError):
            refusal: Exception = refusal_of(exc)
            logger.info("refused a request from %s: %s", request.remote, refusal)
        else:
            refusal = exc if isinstance(exc, Exception) else TimeoutError(f"status {status}")
            logger.error("a bug below the application", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; nothing can be said any more") from exc
        response = error_response(refusal)
        response.force_close()
        return response


def refusal_of(error: HttpProcessingError) -> RequestError:
    """The problem with a request that can't be parsed, without any of its text."""
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_TARGET:
            return RequestError(
                f"the path and query are longer than {MAX_TARGET // 1024} KiB: shorten them", status=414
            )
        return RequestError(
            f"a header is longer than {MAX_HEADER // 1024} KiB: send a shorter one, such as another kind of token",
            status=431,
        )
    if error.message.startswith("Too many headers"):
        return RequestError(f"the request has more than {MAX_HEADERS} headers: send fewer", status=431)
    if error.message.startswith("Received HTTPS"):
        return RequestError(
            "this port speaks plain HTTP, and the request is HTTPS: use http://, or serve with --ssl-certfile"
        )
    if error.message.startswith("Pause on PRI"):
        return RequestError("this server speaks HTTP/1.1, and the request is HTTP/2: use HTTP/1.1")
    what = "it is malformed"
    if error.message.startswith("Missing 'Host'"):
        what = "it has no Host header"
    elif isinstance(error, BadHttpMethod):
        what = "its method is unknown"
    elif isinstance(error, BadStatusLine):
        what = "its first line is wrong"
    elif isinstance(error, InvalidURLError):
        what = "its path is wrong"
    elif isinstance(error, TransferEncodingError):
        what = "its chunks are wrong"
    # llhttp's reason comes first, then the text in question.
    reason = error.message.partition(":\n\n")[0].rpartition("\n")[2].strip() if ":\n\n" in error.message else ""
    return RequestError(f"this is not HTTP/1.1 as it should be: {what}" + (f" ({reason})" if reason else ""))


def _with_tidy_path(message: RawRequestMessage) -> RawRequestMessage:
    """Route a path with the slashes that a base URL adds (`//v1/models`, `/v1/models/`) as if it had none.

    `message.path`, by which access is decided, stays as it was sent.
    """
    path = message.url.raw_path
    if "//" not in path and not path.endswith("/"):
        return message
    tidy = _SLASHES.sub("/", path).rstrip("/") or "/"
    return message._replace(url=message.url.with_path(tidy, encoded=True, keep_query=True))
