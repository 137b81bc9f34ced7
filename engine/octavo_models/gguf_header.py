"""The header of a GGUF file (versions 2 and 3, little-endian): its keys and values, and the locations of its tensors.

Every count, length and offset is checked against the file's size before it is used. The layout is that of
docs/gguf.md in ggml. Both the planner, which never loads a model, and the engine read files through this module.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, overload

from octavo_models.errors import DamagedFileError, InvalidConfigError, UnsupportedFormatError, UnsupportedModelError
from octavo_models.formats import FORMAT_OF_GGML_TYPE, FORMATS, WEIGHT_FORMATS
from octavo_models.pointer_files import LFS_POINTER, refuse_pointer
from octavo_models.stored_tensor import StoredTensor

MAGIC = b"GGUF"
ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"  # LongRoPE's
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32
STRING, ARRAY = 8, 9
ARCHITECTURE = "general.architecture"
LONGEST_HEADER = 1 << 28  # bytes; vocabularies of 262,144 tokens take some 15 million
MOST_ROPE_FACTORS = 1 << 16
CHUNK = 1 << 20

# GGUF's types of scalars, as struct writes them.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# Types of tensors that exist and are not supported, for the error message.
OTHER_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

Value = Any  # bool, int, float, str, a memoryview of numbers, or Strings


class Strings(Sequence[str]):
    """An array of strings, decoded at the first access: only the tokenizer needs the vocabulary."""

    def __init__(self, data: bytes, count: int, key: str) -> None:
        self._data = data
        self._count = count
        self._key = key
        self._decoded: list[str] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.decode()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.decode())

    def decode(self) -> list[str]:
        """All of them. Raises DamagedFileError if one isn't UTF-8."""
        if self._decoded is None:
            data, position = self._data, 0
            unpack = struct.Struct("<Q").unpack_from
            decoded = []
            try:
                for _ in range(self._count):
                    start = position + 8
                    position = start + unpack(data, position)[0]
                    decoded.append(data[start:position].decode())
            except UnicodeDecodeError:
                raise DamagedFileError(f"{self._key} holds a string that isn't UTF-8: the file is damaged") from None
            self._decoded, self._data = decoded, b""
        return self._decoded


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header. `rope_factors` are the values of the tensor of rotary factors that holds, if there is one."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, StoredTensor]
    rope_factors: tuple[float, ...] | None


def read_gguf_header(file: BinaryIO) -> GgufHeader:
    """Read from the file's beginning; the file must be seekable.

    Raises:
        DamagedFileError: it isn't a GGUF file, is cut short, or contradicts itself.
        UnsupportedModelError: its version, its byte order or a tensor's format is not supported.
    """
    reader = _Reader(file)
    num_tensors, num_keys = _counts(reader)
    metadata = dict(_metadata(reader, num_keys))
    tensors = _tensors(reader, num_tensors, metadata)
    return GgufHeader(metadata, tensors, _rope_factors(file, _factors(tensors, metadata)))


def read_architecture(file: BinaryIO) -> Value | None:
    """`general.architecture` alone; writers put it first, and no key behind it is read. Raises as `read_gguf_header`."""
    reader = _Reader(file)
    _, num_keys = _counts(reader)
    return next((value for key, value in _metadata(reader, num_keys) if key == ARCHITECTURE), None)


def _counts(reader: _Reader) -> tuple[int, int]:
    """The numbers of tensors and of keys, which follow the magic number and the version."""
    magic = reader.start()
    refuse_pointer(magic)
    if not magic.startswith(MAGIC[: reader.size]):
        raise DamagedFileError("it isn't a GGUF file")
    reader.take(len(MAGIC), "the magic number")
    version = reader.integer("I", "the version")
    if version not in {2, 3}:
        detail = "a big-endian file" if version in {2 << 24, 3 << 24} else f"version {version}"
        raise UnsupportedModelError(f"{detail} of GGUF isn't supported; versions 2 and 3, little-endian, are")
    return reader.integer("Q", "the number of tensors"), reader.integer("Q", "the number of keys")


def _metadata(reader: _Reader, count: int) -> Iterator[tuple[str, Value]]:
    reader.bound(count, 8 + 4 + 1, "keys")
    found: set[str] = set()
    for _ in range(count):
        key = reader.string("a key")
        if key in found:
            raise DamagedFileError(f"key {key!r} occurs twice")
        found.add(key)
        kind = reader.integer("I", f"the type of {key!r}")
        yield key, reader.array(key) if kind == ARRAY else reader.scalar(kind, key)


def _tensors(reader: _Reader, count: int, metadata: Mapping[str, Value]) -> dict[str, StoredTensor]:
    reader.bound(count, 8 + 4 + 8 + 4 + 8, "tensors")
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1 or alignment & alignment - 1:
        raise DamagedFileError(f"general.alignment is {alignment!r}, not a power of two")
    tensors: dict[str, StoredTensor] = {}
    for _ in range(count):
        name = reader.string("a tensor's name")
        if name in tensors:
            raise DamagedFileError(f"tensor {name} occurs twice")
        tensors[name] = _tensor(reader, name, alignment)
    base = -(-reader.position // alignment) * alignment
    placed: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        end = base + tensor.offset + tensor.nbytes
        if end > reader.size:
            raise DamagedFileError(
                f"tensor {name} ends at byte {end}, past the end of the file at {reader.size}: it is cut short"
            )
        placed[name] = StoredTensor(tensor.format, tensor.shape, base + tensor.offset, tensor.nbytes)
    return placed


def _tensor(reader: _Reader, name: str, alignment: int) -> StoredTensor:
    """The entry of tensor `name`; its offset is still counted from where the data begin."""
    num_dims = reader.integer("I", f"the rank of tensor {name}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise DamagedFileError(f"tensor {name} has {num_dims} dimensions; 1 to {MAX_DIMS} are possible")
    shape = reader.unpack(f"{num_dims}Q", f"the shape of tensor {name}")[::-1]
    if 0 in shape:
        raise DamagedFileError(f"tensor {name} has the shape {list(shape)}: an axis of length 0")
    kind = reader.integer("I", f"the type of tensor {name}")
    offset = reader.integer("Q", f"the offset of tensor {name}")
    if kind not in FORMAT_OF_GGML_TYPE:
        stored = OTHER_TYPES.get(kind, f"type {kind}")
        known = ", ".join(name.upper() for name in WEIGHT_FORMATS)
        raise UnsupportedFormatError(
            f"tensor {name} is stored as {stored}, which isn't supported; supported are {known}"
        )
    f = FORMATS[FORMAT_OF_GGML_TYPE[kind]]
    if shape[-1] % f.block_size:
        raise DamagedFileError(
            f"tensor {name} has rows of {shape[-1]}, which {f.name} blocks of {f.block_size} don't fill"
        )
    if offset % alignment:
        raise DamagedFileError(f"tensor {name} begins at {offset}, which isn't a multiple of {alignment}")
    return StoredTensor(f.name, shape, offset, math.prod(shape) // f.block_size * f.bytes_per_block)


def _factors(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, Value]) -> StoredTensor | None:
    """The tensor of rotary factors that holds: of LongRoPE's two, that of the length that the model is served with."""
    name = metadata.get("general.architecture")
    length, original = (
        metadata.get(f"{name}.{key}") for key in ("context_length", "rope.scaling.original_context_length")
    )
    longer = isinstance(length, int) and isinstance(original, int) and length > original
    return tensors.get(ROPE_FACTORS, tensors.get(LONG_FACTORS if longer else SHORT_FACTORS))


def _rope_factors(file: BinaryIO, tensor: StoredTensor | None) -> tuple[float, ...] | None:
    if tensor is None or tensor.format != "f32":
        return None
    if tensor.nbytes > 4 * MOST_ROPE_FACTORS:
        raise DamagedFileError(f"rotary factors have the shape {list(tensor.shape)}, too large for a head")
    file.seek(tensor.offset)
    data = file.read(tensor.nbytes)
    if len(data) < tensor.nbytes:
        raise InvalidConfigError("it became shorter while it was read: start again once it is written whole")
    return struct.unpack(f"<{tensor.nbytes // 4}f", data)


class _Reader:
    """Reads a header sequentially, and from the file in larger parts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        file.seek(0)
        self._data = bytearray()
        self.position = 0

    def start(self) -> bytes:
        """The file's first bytes; the position does not change."""
        end = min(len(LFS_POINTER), self.size)
        self._fill(end, "the magic number")
        return bytes(self._data[:end])

    def take(self, count: int, what: str) -> bytes:
        start, end = self.position, self.position + count
        self._fill(end, what)
        self.position = end
        return bytes(self._data[start:end])

    def unpack(self, codes: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{codes}", self.take(struct.calcsize(f"<{codes}"), what))

    def integer(self, code: str, what: str) -> int:
        value: int = self.unpack(code, what)[0]
        return value

    def string(self, what: str) -> str:
        length = self.integer("Q", f"the length of {what}")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise DamagedFileError(f"{what} isn't UTF-8: the file is damaged") from None

    def scalar(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self.string(f"the value of {key!r}")
        code = SCALARS.get(kind)
        if code is None:
            raise DamagedFileError(f"key {key!r} has the unknown type {kind}")
        return self.unpack(code, f"the value of {key!r}")[0]

    def array(self, key: str) -> Value:
        kind = self.integer("I", f"the type of {key!r}")
        count = self.integer("Q", f"the length of {key!r}")
        if kind == STRING:
            self.bound(count, 8, f"strings in {key!r}")
            return self._strings(count, key)
        code = SCALARS.get(kind)
        if code is None:
            raise DamagedFileError(f"key {key!r} is an array of the unsupported type {kind}")
        size = struct.calcsize(code)
        self.bound(count, size, f"elements in {key!r}")
        # Not a tuple, which takes ten times the memory. Native order is little-endian wherever Octavo runs.
        return memoryview(self.take(count * size, f"the value of {key!r}")).cast(code)  # type: ignore[call-overload]

    def bound(self, count: int, smallest: int, what: str) -> None:
        """Raise DamagedFileError if `count` items of at least `smallest` bytes do not fit the rest of the file."""
        if count * smallest > self.size - self.position:
            raise DamagedFileError(
                f"it claims {count} {what}, more than its {self.size} bytes can hold: it is damaged or cut short"
            )

    def _strings(self, count: int, key: str) -> Strings:
        what = f"the strings of {key!r}"
        start = position = self.position
        data, unpack = self._data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position + 8 > len(data):
                self._fill(position + 8, what)
            position += 8 + unpack(data, position)[0]
            if position > len(data):
                self._fill(position, what)
        self.position = position
        return Strings(bytes(data[start:position]), count, key)

    def _fill(self, end: int, what: str) -> None:
        if end > self.size:
            raise DamagedFileError(
                f"it ends within {what}: {end} bytes are needed and there are {self.size}: it is cut short"
            )
        if end > LONGEST_HEADER:
            raise DamagedFileError(f"its header would be longer than {LONGEST_HEADER} bytes: {what} ends at {end}")
        while len(self._data) < end:
            part = self._file.read(max(CHUNK, end - len(self._data)))
            if not part:
                raise InvalidConfigError("it became shorter while it was read: start again once it is written whole")
            self._data += part
