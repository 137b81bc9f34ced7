"""Server-sent events: one write for all that has come, and no more in memory than the socket's buffer."""

from __future__ import annotations

import re

import msgspec
from aiohttp import HttpVersion11, web

from octavo_engine.server.answer.delivery import deliver

BEGIN_SECONDS = 0.5  # until an answer without a token begins anyway; an error before then still has its own status
QUIET_SECONDS = 15.0  # without an event until a comment is sent: proxies end what is silent, nginx after 60 s
FREE_BUFFER = 16 * 1024  # bytes in the transport's buffer below which a write never waits: asyncio's low-water mark

COMMENT = b": waiting for the next token\n\n"
# U+0085, U+2028, U+2029: JSON may hold them as they are, but many clients cut lines as Python's `str.splitlines` does.
_LINE_BREAK = re.compile(b"\xc2\x85|\xe2\x80[\xa8\xa9]")

_encoder = msgspec.json.Encoder()


class EventStream:
    """An answer in pieces. `event` collects, `flush` writes; the answer begins with the first flush.

    `named`: each event has its `type` for a name, and the last one is the end, as in Anthropic's API.
    """

    def __init__(self, request: web.Request, *, named: bool = False) -> None:
        self._request = request
        self._named = named
        self._buffer = bytearray()
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would collect
            }
        )
        if request.version < HttpVersion11:
            self._response.force_close()  # without chunks only the connection's end shows the answer's

    @property
    def begun(self) -> bool:
        """True once the status has been sent."""
        return self._response.prepared

    @property
    def patience(self) -> float:
        """Seconds to wait for an event before `keep_alive`."""
        return QUIET_SECONDS if self.begun else BEGIN_SECONDS

    def event(self, chunk: msgspec.Struct) -> None:
        data = _encoder.encode(chunk)
        if not data.isascii():
            data = _LINE_BREAK.sub(_escaped, data)
        if self._named:
            self._buffer += b"event: %s\n" % chunk.type.encode()  # type: ignore[attr-defined]
        self._buffer += b"data: "
        self._buffer += data
        self._buffer += b"\n\n"

    async def keep_alive(self) -> None:
        """Keep the connection alive: begin the answer, or write a comment. Raises as `flush`."""
        if self.begun:
            self._buffer += COMMENT
        await self.flush()

    async def flush(self) -> None:
        """Write what was collected; waits while the client is slow.

        Raises:
            ConnectionResetError: the client is gone, or has read nothing for too long.
        """
        if not self._response.prepared:
            await self._response.prepare(self._request)
        data, self._buffer = self._buffer, bytearray()
        if not data:
            return
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size() + len(data) < FREE_BUFFER:
            await self._response.write(data)
            return
        await deliver(self._request, self._response.write(data))

    async def end(self) -> web.StreamResponse:
        """Write the rest and the mark of the end."""
        if not self._named:
            self._buffer += b"data: [DONE]\n\n"
        await self.flush()
        await deliver(self._request, self._response.write_eof())
        return self._response

    async def fail(self, failure: msgspec.Struct) -> web.StreamResponse:
        """End with an error: the status has long been sent, so it is an event."""
        self.event(failure)
        return await self.end()


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())
