"""Reads safetensors files: the header parsed and checked, then each tensor by itself.

The format is huggingface/safetensors' README: eight bytes of length, a JSON header, then the data. Knows nothing of
models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.weight_file import WeightFile, naming
from octavo_models.pointer_files import LFS_POINTER, refuse_pointer

LONGEST_HEADER = 100_000_000  # bytes; the format's own limit

# dtype → (format, bytes an element). A format that is no key of FORMATS is refused when a model asks for the tensor.
DTYPES = {
    "F32": ("f32", 4),
    "F16": ("f16", 2),
    "BF16": ("bf16", 2),
    "F8_E4M3": ("f8_e4m3", 1),
    "F8_E5M2": ("f8_e5m2", 1),
    "I8": ("i8", 1),
    "U8": ("u8", 1),
    "BOOL": ("bool", 1),
    "I16": ("i16", 2),
    "U16": ("u16", 2),
    "I32": ("i32", 4),
    "U32": ("u32", 4),
    "I64": ("i64", 8),
    "U64": ("u64", 8),
    "F64": ("f64", 8),
}


class SafetensorsCheckpoint:
    """A model in one safetensors file or several shards.

    Raises:
        ModelLoadError: a file isn't safetensors, is cut short, or contradicts itself; names file and tensor.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: dict[Path, WeightFile] = {}
        tensors: dict[str, TensorInfo] = {}
        try:
            for path in paths:
                self._files[path] = WeightFile(path)
                found = _read_header(self._files[path])
                _refuse_twins(path, found, tensors)
                tensors.update(found)
        except ModelLoadError:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = tensors
        self._where = paths[0] if len(paths) == 1 else paths[0].parent

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        info = self.tensors.get(name)
        if info is None:
            raise ModelLoadError(f"{self._where}: there is no tensor {name}")
        return self._files[info.path].read(*info.span(rows))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _refuse_twins(path: Path, found: Mapping[str, TensorInfo], tensors: Mapping[str, TensorInfo]) -> None:
    twins = sorted(found.keys() & tensors.keys())
    if twins:
        raise ModelLoadError(f"{path}: tensor {twins[0]} also lies in {tensors[twins[0]].path}")


def _read_header(file: WeightFile) -> dict[str, TensorInfo]:
    path, size = file.path, file.size
    with naming(path):
        refuse_pointer(file.read(0, min(size, len(LFS_POINTER))).tobytes())
    if size < 8:
        raise ModelLoadError(f"{path}: it isn't a safetensors file: {size} bytes are too few for a header")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LONGEST_HEADER:
        raise ModelLoadError(f"{path}: it isn't a safetensors file: its header would be {length} bytes long")
    start = 8 + length
    if start > size:
        raise ModelLoadError(f"{path}: it is cut short: the header ends at byte {start}, the file at {size}")
    try:
        header = json.loads(file.read(8, length).tobytes(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: its header isn't valid: {error}") from error
    if not isinstance(header, dict):
        raise ModelLoadError(f"{path}: its header is no JSON object")
    return {
        name: _read_entry(path, name, entry, start, size) for name, entry in header.items() if name != "__metadata__"
    }


def _read_entry(path: Path, name: str, entry: object, start: int, size: int) -> TensorInfo:
    where = f"{path}: tensor {name}"
    if not isinstance(entry, dict):
        raise ModelLoadError(f"{where} has no description in the header")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not _are_lengths(shape):
        raise ModelLoadError(f"{where} has the shape {_shown(shape)}, which isn't one")
    if not _are_lengths(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelLoadError(f"{where} has the offsets {_shown(offsets)}, which aren't a range")
    begin, end = offsets
    if start + end > size:
        raise ModelLoadError(
            f"{where} ends at byte {start + end}, past the end of the file at {size}: it is cut short; fetch it again"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelLoadError(f"{where} is of dtype {_shown(dtype)}; known are {', '.join(DTYPES)}")
    format_, element = DTYPES[dtype]
    expected = math.prod(shape) * element
    if end - begin != expected:
        raise ModelLoadError(f"{where} has {end - begin} bytes; {dtype} {list(shape)} takes {expected}")
    return TensorInfo(name, format_, tuple(shape), path, start + begin, end - begin)


def _are_lengths(values: object) -> TypeGuard[list[int]]:
    # Lengths beyond 2**63 can't be any file's; products of them would only grow the numbers in messages.
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values) and len(values) <= 16


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{key!r} occurs twice")
        result[key] = value
    return result


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
