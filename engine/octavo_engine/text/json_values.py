"""Counts the values of JSON before it is parsed: each costs far more than its text."""

from __future__ import annotations

from collections.abc import Iterator

STRETCH = 64 * 1024  # bytes at a time: a call that looks at more would keep the interpreter's lock for too long
MEMBER = 4  # elements of a list that cost as much as a member of an object, or as another list


def exceeds(data: bytes, limit: int) -> bool:
    """True if JSON `data` has more than `limit` values.

    Counts commas and opening brackets outside of strings; a list or a member of an object counts as MEMBER values.
    """
    if sum(map(_values, _stretches(data))) <= limit:
        return False
    count = 0
    for part in _outside_of_strings(data):
        count += _values(part)
        if count > limit:
            return True
    return False


def _values(data: bytes) -> int:
    return data.count(b",") + data.count(b"{") + MEMBER * data.count(b"[") + (MEMBER - 1) * data.count(b":")


def _stretches(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), STRETCH):
        yield data[at : at + STRETCH]


def _outside_of_strings(data: bytes) -> Iterator[bytes]:
    """Yield the bytes outside of strings, a stretch at a time."""
    inside, held = False, b""
    for stretch in _stretches(data):
        piece = held + stretch
        held = b"\\" if (len(piece) - len(piece.rstrip(b"\\"))) % 2 else b""
        parts = piece.removesuffix(held).replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b" ".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
