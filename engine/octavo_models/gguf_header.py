"""The header of a GGUF file, read in plain Python: what describes the model, without mapping or loading it.

For those who ask about a model and never run it. Long arrays (the tokenizer's) are stepped over. The layout is that
of docs/gguf.md in ggml, versions 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from octavo_models.errors import InvalidConfigError, UnsupportedModelError
from octavo_models.formats import FORMAT_OF_GGML_TYPE

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST_ARRAY = 4096  # elements that are kept; longer ones are the tokenizer's
LONGEST_STRING = 1 << 24
MOST_ENTRIES = 1 << 20
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What `from_gguf` takes: keys and values without long arrays, tensors as (format, shape), rotary factors."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    rope_factors: tuple[float, ...] | None


def read_gguf_header(file: BinaryIO) -> GgufHeader:
    """Read from the file's beginning; the file must be seekable.

    Raises:
        InvalidConfigError: it isn't a GGUF file, or its header is damaged.
        UnsupportedModelError: a tensor's format is unknown.
    """
    reader = _Reader(file)
    if reader.take(4) != MAGIC:
        raise InvalidConfigError("it is not a GGUF file")
    version = reader.number("I")
    if version not in {2, 3}:
        raise UnsupportedModelError(f"GGUF version {version} is not supported; 2 and 3 are")
    num_tensors, num_keys = reader.count(), reader.count()
    metadata = {}
    for _ in range(num_keys):
        key, value = reader.string(), reader.value(reader.number("I"))
        if value is not None:
            metadata[key] = value
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    offsets: dict[str, int] = {}
    for _ in range(num_tensors):
        name = reader.string()
        dims = [reader.number("Q") for _ in range(min(reader.number("I"), 8))]
        kind = reader.number("I")
        if kind not in FORMAT_OF_GGML_TYPE:
            raise UnsupportedModelError(f"tensor {name} is stored as GGML type {kind}, which is not supported")
        tensors[name] = (FORMAT_OF_GGML_TYPE[kind], tuple(reversed(dims)))
        offsets[name] = reader.number("Q")
    return GgufHeader(metadata, tensors, _rope_factors(reader, metadata, tensors, offsets))


def _rope_factors(
    reader: _Reader,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    offsets: Mapping[str, int],
) -> tuple[float, ...] | None:
    if ROPE_FACTORS not in tensors or tensors[ROPE_FACTORS][0] != "f32":
        return None
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise InvalidConfigError(f"general.alignment is {alignment!r}, not a whole number above zero")
    count = tensors[ROPE_FACTORS][1][-1]
    data_start = -(-reader.file.tell() // alignment) * alignment
    reader.file.seek(data_start + offsets[ROPE_FACTORS])
    return struct.unpack(f"<{count}f", reader.take(4 * count))


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def take(self, count: int) -> bytes:
        if count > LONGEST_STRING:
            raise InvalidConfigError(f"the header claims {count} bytes in one piece: it is damaged")
        data = self.file.read(count)
        if len(data) != count:
            raise InvalidConfigError("the file ends within its header: it is cut short")
        return data

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def count(self) -> int:
        value: int = self.number("Q")
        if value > MOST_ENTRIES:
            raise InvalidConfigError(f"the header claims {value} entries: it is damaged")
        return value

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """A scalar, a string, or a short array; None for an array that was stepped over."""
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise InvalidConfigError(f"the header holds a value of the unknown type {kind}: it is damaged")
        item, length = self.number("I"), self.number("Q")
        if length <= LONGEST_ARRAY:
            return [self.value(item) for _ in range(length)]
        if item in SCALARS:
            self.file.seek(length * struct.calcsize(SCALARS[item]), 1)
        elif item == STRING:
            self._skip_strings(length)
        else:
            raise InvalidConfigError(f"the header holds a long array of the type {item}: it is damaged")
        return None

    def _skip_strings(self, count: int) -> None:
        read, unpack = self.file.read, struct.Struct("<Q").unpack
        for _ in range(count):
            prefix = read(8)
            if len(prefix) < 8:
                raise InvalidConfigError("the file ends within its header: it is cut short")
            (length,) = unpack(prefix)
            if length > LONGEST_STRING or len(read(length)) < length:
                raise InvalidConfigError("the file ends within its header: it is cut short")
