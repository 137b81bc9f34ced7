"""Reads GGUF files (versions 2 and 3, little-endian) where they lie: header parsed, tensors and strings mapped.

Every count, length and offset is checked against the file's size before anything is made from it. Format:
docs/gguf.md of ggml. Knows nothing of models.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.mapping import mapped, unmap
from octavo_models.formats import FORMAT_OF_GGML_TYPE, FORMATS, WEIGHT_FORMATS

MAGIC = b"GGUF"
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32
STRING, ARRAY = 8, 9

# GGUF's types of scalars, as struct writes them.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

# Types of tensors that exist and are not run here, for a message that a person can act on.
OTHER_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

Value = Any  # bool, int, float, str, memoryview of numbers (its own copy), Strings


class Strings(Sequence[str]):
    """An array of strings, decoded when it is first looked into: the engine core never needs the vocabulary."""

    def __init__(self, buffer: mmap.mmap, offset: int, count: int, where: str) -> None:
        self._buffer = buffer
        self._offset = offset
        self._count = count
        self._where = where
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
        """All of them; the file must still be open. Raises ModelLoadError where one isn't UTF-8."""
        if self._decoded is None:
            buffer, position = self._buffer, self._offset
            unpack = struct.Struct("<Q").unpack_from
            decoded = []
            try:
                for _ in range(self._count):
                    (length,) = unpack(buffer, position)
                    start = position + 8
                    position = start + length
                    decoded.append(buffer[start:position].decode())
            except UnicodeDecodeError:
                raise ModelLoadError(f"{self._where} holds a string that isn't UTF-8: the file is damaged") from None
            self._decoded = decoded
        return self._decoded


class GgufFile:
    """One GGUF file. `metadata` maps keys to plain values, memoryviews of numbers and `Strings`.

    Raises:
        ModelLoadError: the file isn't GGUF, is cut short, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = mapped(path)
        self._size = len(self._map)
        self._position = 0
        self.metadata: Mapping[str, Value]
        self.tensors: Mapping[str, TensorInfo]
        try:
            self._parse()
        except ModelLoadError:
            self.close()
            raise

    def read(self, name: str) -> memoryview:
        """The tensor's bytes, mapped. Raises ModelLoadError if there is none of that name."""
        info = self.tensors.get(name)
        if info is None:
            raise ModelLoadError(f"{self.path}: there is no tensor {name}")
        return memoryview(self._map)[info.offset : info.offset + info.nbytes]

    def close(self) -> None:
        unmap(self._map)

    def _parse(self) -> None:
        if self._take(4, "the magic number") != MAGIC:
            raise self._error("it isn't a GGUF file")
        version = self._integer("<I", "the version")
        if version not in {2, 3}:
            detail = "a big-endian file" if version in {2 << 24, 3 << 24} else f"version {version}"
            raise self._error(f"{detail} of GGUF isn't supported; versions 2 and 3, little-endian, are")
        num_tensors = self._integer("<Q", "the number of tensors")
        num_keys = self._integer("<Q", "the number of keys")
        self._bounded(num_keys, 8 + 4 + 1, "keys")
        self.metadata = self._read_metadata(num_keys)
        self._bounded(num_tensors, 8 + 4 + 8 + 4 + 8, "tensors")
        entries = [self._read_tensor_entry() for _ in range(num_tensors)]
        self.tensors = self._place(entries)

    def _read_metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            key = self._string("a key")
            if key in metadata:
                raise self._error(f"key {key!r} occurs twice")
            kind = self._integer("<I", f"the type of {key!r}")
            metadata[key] = self._array(key) if kind == ARRAY else self._scalar(kind, key)
        return metadata

    def _scalar(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self._string(f"the value of {key!r}")
        code = SCALARS.get(kind)
        if code is None:
            raise self._error(f"key {key!r} has the unknown type {kind}")
        if kind == 7:
            return self._take(1, f"the value of {key!r}") != b"\0"
        return struct.unpack(code, self._take(struct.calcsize(code), f"the value of {key!r}"))[0]

    def _array(self, key: str) -> Value:
        kind = self._integer("<I", f"the type of {key!r}")
        count = self._integer("<Q", f"the length of {key!r}")
        if kind == STRING:
            self._bounded(count, 8, f"strings in {key!r}")
            start = self._position
            self._skip_strings(count, key)
            return Strings(self._map, start, count, f"{self.path}: {key}")
        code = SCALARS.get(kind)
        if code is None:
            raise self._error(f"key {key!r} is an array of the unsupported type {kind}")
        size = struct.calcsize(code)
        self._bounded(count, size, f"elements in {key!r}")
        # A copy: arrays are small beside tensors, and a view would keep the file mapped for as long as it lives.
        # Native order is little-endian on every machine that Octavo runs on.
        return memoryview(self._take(count * size, f"the value of {key!r}")).cast(code[1:])  # type: ignore[call-overload]

    def _skip_strings(self, count: int, key: str) -> None:
        buffer, size, position = self._map, self._size, self._position
        unpack = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                position += 8 + unpack(buffer, position)[0]
        except (struct.error, OverflowError):
            position = size + 1
        if position > size:
            raise self._error(f"it ends within the strings of {key!r}")
        self._position = position

    def _read_tensor_entry(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string("a tensor's name")
        num_dims = self._integer("<I", f"the rank of tensor {name}")
        if not 1 <= num_dims <= MAX_DIMS:
            raise self._error(f"tensor {name} has {num_dims} dimensions; 1 to {MAX_DIMS} are possible")
        dims = struct.unpack(f"<{num_dims}Q", self._take(8 * num_dims, f"the shape of tensor {name}"))
        if 0 in dims:
            raise self._error(f"tensor {name} has the shape {list(dims[::-1])}: an axis of length 0")
        kind = self._integer("<I", f"the type of tensor {name}")
        return name, kind, dims[::-1], self._integer("<Q", f"the offset of tensor {name}")

    def _place(self, entries: list[tuple[str, int, tuple[int, ...], int]]) -> dict[str, TensorInfo]:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1 or alignment & alignment - 1:
            raise self._error(f"general.alignment is {alignment!r}, not a power of two")
        base = -(-self._position // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, kind, shape, offset in entries:
            if name in tensors:
                raise self._error(f"tensor {name} occurs twice")
            if kind not in FORMAT_OF_GGML_TYPE:
                stored = OTHER_TYPES.get(kind, f"type {kind}")
                known = ", ".join(name.upper() for name in WEIGHT_FORMATS)
                raise self._error(f"tensor {name} is stored as {stored}, which isn't supported; supported are {known}")
            f = FORMATS[FORMAT_OF_GGML_TYPE[kind]]
            if shape[-1] % f.block_size:
                raise self._error(
                    f"tensor {name} has rows of {shape[-1]}, which {f.name} blocks of {f.block_size} don't fill"
                )
            elements = 1
            for axis in shape:
                elements *= axis
            size = elements // f.block_size * f.bytes_per_block
            if offset % alignment:
                raise self._error(f"tensor {name} begins at {offset}, which isn't a multiple of {alignment}")
            if base + offset + size > self._size:
                end = base + offset + size
                raise self._error(
                    f"tensor {name} ends at byte {end}, past the end of the file at {self._size}: it is cut short"
                )
            tensors[name] = TensorInfo(name, f.name, shape, self.path, base + offset, size)
        return tensors

    def _string(self, what: str) -> str:
        length = self._integer("<Q", f"the length of {what}")
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError:
            raise self._error(f"{what} isn't UTF-8: the file is damaged") from None

    def _integer(self, code: str, what: str) -> int:
        value: int = struct.unpack(code, self._take(struct.calcsize(code), what))[0]
        return value

    def _take(self, count: int, what: str) -> bytes:
        end = self._position + count
        if end > self._size:
            raise self._error(f"it ends within {what}: {end} bytes are needed and there are {self._size}")
        data = self._map[self._position : end]
        self._position = end
        return data

    def _bounded(self, count: int, smallest: int, what: str) -> None:
        if count * smallest > self._size - self._position:
            raise self._error(f"it claims {count} {what}, more than its {self._size} bytes can hold")

    def _error(self, problem: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path}: {problem}")


class GgufCheckpoint:
    """A model in one GGUF file, or in the several that gguf-split makes of it (metadata in the first)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files: list[GgufFile] = []
        try:
            for path in paths:
                self.files.append(GgufFile(path))
            self.tensors, self._owners = self._join()
        except ModelLoadError:
            self.close()
            raise

    @property
    def metadata(self) -> Mapping[str, Value]:
        return self.files[0].metadata

    def read(self, name: str) -> memoryview:
        owner = self._owners.get(name)
        if owner is None:
            raise ModelLoadError(f"{self.files[0].path}: there is no tensor {name}")
        return owner.read(name)

    def close(self) -> None:
        for file in self.files:
            file.close()

    def _join(self) -> tuple[dict[str, TensorInfo], dict[str, GgufFile]]:
        tensors: dict[str, TensorInfo] = {}
        owners: dict[str, GgufFile] = {}
        for i, file in enumerate(self.files):
            count, number = file.metadata.get("split.count", 1), file.metadata.get("split.no", 0)
            if count not in {0, 1, len(self.files)} or (count == len(self.files) > 1 and number != i):
                raise ModelLoadError(
                    f"{file.path}: it is piece {number} of {count}, but stands as piece {i} of {len(self.files)}; "
                    "all pieces must lie in one folder under the names that gguf-split gave them"
                )
            for name, info in file.tensors.items():
                if name in tensors:
                    raise ModelLoadError(f"{file.path}: tensor {name} also lies in {tensors[name].path}")
                tensors[name] = info
                owners[name] = file
        return tensors, owners
