"""Long lists as JSON, encoded a stretch at a time: one call would keep the interpreter's lock until its end."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

STRETCH = 16 * 1024  # elements

_encoder = msgspec.json.Encoder()


def raw_list(items: Sequence[int] | Sequence[str]) -> msgspec.Raw:
    """The JSON array of `items`."""
    stretches = [_encoder.encode(items[at : at + STRETCH])[1:-1] for at in range(0, len(items), STRETCH)]
    return msgspec.Raw(b"".join((b"[", b",".join(stretches), b"]")))
