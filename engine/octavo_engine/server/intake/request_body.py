"""The plain bytes of a body: read and decompressed up to a limit, as UTF-8 without a byte order mark."""

from __future__ import annotations

import asyncio
import codecs
import encodings.aliases
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from aiohttp import StreamReader, web

from octavo_engine.errors import QueueFullError, RequestError
from octavo_engine.server.intake.limits import BODY_GRACE_SECONDS, SLOWEST_BODY, Limits
from octavo_engine.server.pools import Pools
from octavo_engine.text.json_values import MEMBER, exceeds

MAX_MEMBERS = 16  # of a gzip body; each costs a copy of the rest
# zlib's window bits: 31 reads gzip; deflate is zlib's format by the standard, and without its header in practice.
_GZIP, _ZLIB, _RAW = 31, 15, -15
_PLAIN = {"", "identity"}
_COMPRESSED = {"gzip", "x-gzip", "deflate"}
_SAME_AS_UTF8 = {"utf-8", "ascii"}
_CHARSET = re.compile(r';\s*charset\s*=\s*["\']?([^\s;"\']+)', re.IGNORECASE)
_NAMES = {*encodings.aliases.aliases, *encodings.aliases.aliases.values()}
_CHARSETS = {"iso8859-1", "utf-16", "utf-16-le", "utf-16-be"}  # what Java's and .NET's clients write unasked

PIECE = 4 * 1024  # bytes that are taken from a connection at once; each may have come in a chunk of its own
SHORT = 64 * 1024  # bytes that are looked at on the event loop, or at once in a thread, which keeps the lock meanwhile
MAX_CONTENT_TYPE = 256  # characters of it that are looked at


class BodyBudget:
    """The bytes of all bodies that are being read or worked on, until their requests are sent to the engine."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """One request's share, given back at the end at the latest."""
        share = Share(self)
        try:
            yield share
        finally:
            share.give_back()

    def take(self, count: int) -> None:
        if self.used + count > self._limit:
            raise QueueFullError(
                f"the server is busy with the bodies of other requests ({self._limit >> 20} MiB): send it again later"
            )
        self.used += count


class Share:
    """One request's share of a `BodyBudget`."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._taken = 0

    def take(self, count: int) -> None:
        """Raises QueueFullError where all bodies together would be too large."""
        self._budget.take(count)
        self._taken += count

    def give_back(self) -> None:
        self._budget.used -= self._taken
        self._taken = 0


async def plain_body(request: web.Request, limits: Limits, pools: Pools, share: Share) -> bytes:
    """The body of `request`: within `limits` on the wire and decompressed, and taken from `share`.

    Raises:
        RequestError: its Content-Encoding or charset is unknown (415), it is damaged (400), too large (413), too slow
            (408), or JSON of too many values (400).
        QueueFullError: all bodies together are too large.
    """
    limit = limits.body_bytes
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _PLAIN | _COMPRESSED:
        raise RequestError(
            f"Content-Encoding {encoding[:40]!r} is not read here: send gzip, deflate, or the body as it is", status=415
        )
    charset = _charset(request.headers.get("Content-Type", ""))
    data = await _received(request, limit, share)
    if data and encoding in _COMPRESSED:
        share.take(limit)  # whatever comes out of it
        data = await pools.run("read", _decompressed, data, encoding, limit)
    if charset not in _SAME_AS_UTF8:
        data = await pools.run("read", _as_utf8, data, charset)
    if len(data) > SHORT:
        await pools.run("read", check_values, data, limits.body_values)
    return data.removeprefix(codecs.BOM_UTF8)


async def pieces_of(content: StreamReader) -> AsyncIterator[bytes]:
    """A body as it comes. Yields to the event loop after each piece: a chunk of one byte costs as much as a large one."""
    while piece := await content.read(PIECE):
        yield piece
        await asyncio.sleep(0)


async def _received(request: web.Request, limit: int, share: Share) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_GRACE_SECONDS) as clock:
            async for piece in pieces_of(request.content):
                if len(data) + len(piece) > limit:
                    raise too_large(limit)
                share.take(len(piece))
                data += piece
                end = clock.when()
                assert end is not None
                clock.reschedule(end + len(piece) / SLOWEST_BODY)
    except TimeoutError:
        raise RequestError(
            f"the body came too slowly: after {BODY_GRACE_SECONDS:g} s, less than {SLOWEST_BODY // 1024} KiB a second; "
            "send it again",
            status=408,
        ) from None
    return bytes(data)


def check_values(data: bytes, limit: int) -> None:
    """Raises RequestError for JSON of more than `limit` values, before it is parsed."""
    if exceeds(data, limit):
        raise RequestError(
            f"the body has more than {limit} values, a list or a member of an object counted as {MEMBER}: send fewer "
            "at once"
        )


def too_large(limit: int) -> RequestError:
    """The refusal of a body of more than `limit` bytes."""
    return RequestError(f"the body is larger than {limit // 2**20} MiB; send less at once", status=413)


def _decompressed(data: bytes, encoding: str, limit: int) -> bytes:
    window = _GZIP
    if encoding == "deflate":
        window = _ZLIB if data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0 else _RAW
    result = b""
    try:
        for _ in range(MAX_MEMBERS if window == _GZIP else 1):
            decompressor = zlib.decompressobj(window)
            result += decompressor.decompress(data, limit - len(result) + 1)
            if len(result) > limit:
                raise too_large(limit)
            if not decompressor.eof:
                raise RequestError(f"the body ends in the middle of its {encoding}: send it again")
            data = decompressor.unused_data
            if not data:
                return result
    except zlib.error:
        raise RequestError(f"the body is not valid {encoding}, which its Content-Encoding names") from None
    raise RequestError(f"the body goes on after its {encoding}, or has more than {MAX_MEMBERS} parts: send it as one")


def _charset(content_type: str) -> str:
    """Python's name of the charset. Raises RequestError for one that is not read.

    Not aiohttp's own: what it takes for a long Content-Type grows with the square of its length.
    """
    found = _CHARSET.search(content_type[:MAX_CONTENT_TYPE])
    declared = found[1] if found is not None else "utf-8"
    try:  # Python keeps each unknown name that it has looked for
        known = declared.isascii() and encodings.normalize_encoding(declared).lower() in _NAMES
        name = codecs.lookup(declared).name if known else ""
    except (LookupError, ValueError):
        name = ""
    if name not in _SAME_AS_UTF8 | _CHARSETS:
        raise RequestError(f"the charset {declared[:40]!r} is not read here: send UTF-8", status=415)
    return name


def _as_utf8(data: bytes, charset: str) -> bytes:
    try:
        return data.decode(charset).encode()
    except UnicodeError:
        raise RequestError(f"the body is not valid {charset}, which its Content-Type names: send UTF-8") from None
