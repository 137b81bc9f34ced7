"""The header of a safetensors file: what tensors it holds, and where.

The format is huggingface/safetensors' README: eight bytes of length, a JSON header, then the data. Every length and
offset is checked against the file's size. Both the planner, which never loads a model, and the engine read files
through this module.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, BinaryIO, TypeGuard

from octavo_models.errors import DamagedFileError
from octavo_models.pointer_files import LFS_POINTER, refuse_pointer
from octavo_models.stored_tensor import StoredTensor

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


def read_safetensors_header(file: BinaryIO, piece: int = 0) -> dict[str, StoredTensor]:
    """The tensors by name; `file` must be seekable, `piece` is its number among a model's files.

    Raises:
        DamagedFileError: it isn't a safetensors file, is cut short, or contradicts itself.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(len(LFS_POINTER))
    refuse_pointer(start)
    if len(start) < 8:
        raise DamagedFileError(f"it isn't a safetensors file: {size} bytes are too few for a header")
    length = int.from_bytes(start[:8], "little")
    if length > LONGEST_HEADER:
        raise DamagedFileError(f"it isn't a safetensors file: its header would be {length} bytes long")
    data_start = 8 + length
    if data_start > size:
        raise DamagedFileError(f"it is cut short: the header ends at byte {data_start}, the file at {size}")
    file.seek(8)
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"its header isn't valid: {error}") from error
    if not isinstance(header, dict):
        raise DamagedFileError("its header is no JSON object")
    found = {
        name: _entry(f"tensor {name}", entry, data_start, size, piece)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_apart(found)
    return found


def _check_apart(tensors: Mapping[str, StoredTensor]) -> None:
    """Raise DamagedFileError where two tensors share bytes, which the format rules out."""
    filled = sorted((t.offset, name) for name, t in tensors.items() if t.nbytes)
    for (first, name), (second, other) in pairwise(filled):
        if second < first + tensors[name].nbytes:
            raise DamagedFileError(f"tensor {other} begins at byte {second}, inside tensor {name}")


def _entry(where: str, entry: object, start: int, size: int, piece: int) -> StoredTensor:
    if not isinstance(entry, Mapping):
        raise DamagedFileError(f"{where} has no description in the header")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not _are_lengths(shape):
        raise DamagedFileError(f"{where} has the shape {_shown(shape)}, which isn't one")
    if not _are_lengths(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise DamagedFileError(f"{where} has the offsets {_shown(offsets)}, which aren't a range")
    begin, end = offsets
    if start + end > size:
        raise DamagedFileError(
            f"{where} ends at byte {start + end}, past the end of the file at {size}: it is cut short"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DamagedFileError(f"{where} is of dtype {_shown(dtype)}; known are {', '.join(DTYPES)}")
    format_, element = DTYPES[dtype]
    expected = math.prod(shape) * element
    if end - begin != expected:
        raise DamagedFileError(f"{where} has {end - begin} bytes; {dtype} {list(shape)} takes {expected}")
    return StoredTensor(format_, tuple(shape), start + begin, end - begin, piece)


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
