"""Server-sent events: one write for all that has come, and no more in memory than the socket's buffer."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from octavo_engine.server.error_responses import error_body

STALL_SECONDS = 120.0  # a client that takes nothing for so long is gone
FREE_BUFFER = 16 * 1024  # bytes in the transport's buffer below which a write never waits: asyncio's low-water mark

_encoder = msgspec.json.Encoder()


class EventStream:
    """An answer in pieces. `event` collects, `flush` writes; the answer begins with the first flush."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._buffer = bytearray()
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )
        self._response.enable_chunked_encoding()

    def event(self, chunk: msgspec.Struct) -> None:
        self._buffer += b"data: "
        _encoder.encode_into(chunk, self._buffer, -1)
        self._buffer += b"\n\n"

    async def flush(self) -> None:
        """Write what was collected; waits while the client is slow.

        Raises:
            ConnectionResetError: the client is gone, or has read nothing for too long.
        """
        if not self._response.prepared:
            await self._response.prepare(self._request)
        data, self._buffer = self._buffer, bytearray()
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size() + len(data) < FREE_BUFFER:
            await self._response.write(data)
            return
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._response.write(data)
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client has stopped reading") from None

    async def end(self) -> web.StreamResponse:
        """Write the rest and the mark of the end."""
        self._buffer += b"data: [DONE]\n\n"
        await self.flush()
        await self._response.write_eof()
        return self._response

    async def fail(self, error: Exception) -> web.StreamResponse:
        """End with an error: the status has long been sent, so it is an event."""
        self.event(error_body(error))
        return await self.end()
