"""A body as it was meant: read up to a limit, decompressed up to the same limit, as UTF-8 without a byte order mark."""

from __future__ import annotations

import asyncio
import codecs
import zlib

from aiohttp import web

from octavo_engine.errors import RequestError

MAX_MEMBERS = 16  # of a gzip body; each costs a copy of the rest
# zlib's window bits: 31 reads gzip; deflate is zlib's format by the standard, and without its header in practice.
_GZIP, _ZLIB, _RAW = 31, 15, -15
_PLAIN = {"", "identity"}
_COMPRESSED = {"gzip", "x-gzip", "deflate"}
_SAME_AS_UTF8 = {"utf-8", "ascii"}
_CHARSETS = {"iso8859-1", "utf-16", "utf-16-le", "utf-16-be"}  # what Java's and .NET's clients write unasked


async def plain_body(request: web.Request, limit: int) -> bytes:
    """The body of `request`, of at most `limit` bytes on the wire and decompressed.

    Raises:
        RequestError: its Content-Encoding or charset is unknown (415), it is damaged (400) or too large (413).
    """
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _PLAIN | _COMPRESSED:
        raise RequestError(
            f"Content-Encoding {encoding[:40]!r} is not read here: send gzip, deflate, or the body as it is", status=415
        )
    charset = _charset(request.charset)
    data = await request.read()
    if data and encoding in _COMPRESSED:
        data = await asyncio.to_thread(_decompressed, data, encoding, limit)
    if charset not in _SAME_AS_UTF8:
        data = await asyncio.to_thread(_as_utf8, data, charset)
    return data.removeprefix(codecs.BOM_UTF8)


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


def _charset(declared: str | None) -> str:
    """Python's name of the charset. Raises RequestError for one that is not read."""
    try:
        name = codecs.lookup(declared or "utf-8").name
    except (LookupError, ValueError):
        name = ""
    if name not in _SAME_AS_UTF8 | _CHARSETS:
        raise RequestError(f"the charset {(declared or '')[:40]!r} is not read here: send UTF-8", status=415)
    return name


def _as_utf8(data: bytes, charset: str) -> bytes:
    try:
        return data.decode(charset).encode()
    except UnicodeError:
        raise RequestError(f"the body is not valid {charset}, which its Content-Type names: send UTF-8") from None
