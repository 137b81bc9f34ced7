"""A body as it was meant: read up to a limit, decompressed up to the same limit, as UTF-8 without a byte order mark."""

from __future__ import annotations

import asyncio
import codecs
import zlib

from aiohttp import web

from octavo_engine.errors import RequestError

SHORT_BODY = 64 * 1024  # bytes that are decompressed on the event loop
# zlib's window bits: 31 reads gzip; deflate is zlib's format by the standard, and without its header in practice.
_GZIP, _ZLIB, _RAW = 31, 15, -15
_SAME_AS_UTF8 = {"utf-8", "utf-8-sig", "ascii"}
_CHARSETS = {"iso8859-1", "utf-16", "utf-16-le", "utf-16-be"}  # what Java's and .NET's clients write unasked


async def plain_body(request: web.Request, limit: int) -> bytes:
    """The body of `request`, of at most `limit` bytes on the wire and decompressed.

    Raises:
        RequestError: its Content-Encoding or charset is unknown (415), it is damaged (400) or too large (413).
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
        raise RequestError(
            f"Content-Encoding {encoding[:40]!r} is not read here: send gzip, deflate, or the body as it is", status=415
        )
    data = await request.read()
    if encoding not in {"identity", ""} and data:
        if len(data) > SHORT_BODY:
            data = await asyncio.to_thread(_decompressed, data, encoding, limit)
        else:
            data = _decompressed(data, encoding, limit)
    return _as_utf8(data, request.charset).removeprefix(codecs.BOM_UTF8)


def too_large(limit: int) -> RequestError:
    """The refusal of a body of more than `limit` bytes."""
    return RequestError(f"the body is larger than {limit // 2**20} MiB; send less at once", status=413)


def _decompressed(data: bytes, encoding: str, limit: int) -> bytes:
    window = _GZIP
    if encoding == "deflate":
        window = _ZLIB if data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0 else _RAW
    result = b""
    try:
        while data:  # gzip's members may follow one another
            decompressor = zlib.decompressobj(window)
            result += decompressor.decompress(data, limit - len(result) + 1)
            if len(result) > limit:
                raise too_large(limit)
            if not decompressor.eof:
                raise RequestError(f"the body ends in the middle of its {encoding}: send it again")
            data = decompressor.unused_data if window == _GZIP else b""
    except zlib.error:
        raise RequestError(f"the body is not {encoding}, which its Content-Encoding says it is") from None
    return result


def _as_utf8(data: bytes, charset: str | None) -> bytes:
    if charset is None:
        return data
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        name = ""
    if name in _SAME_AS_UTF8:
        return data
    if name not in _CHARSETS:
        raise RequestError(f"the charset {charset[:40]!r} is not read here: send UTF-8", status=415)
    try:
        return data.decode(name).encode()
    except UnicodeError:
        raise RequestError(f"the body is not {name}, which its Content-Type says it is: send UTF-8") from None
