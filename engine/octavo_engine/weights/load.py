"""Hands an executor its weights one by one, as the spec names them: whole rows as stored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import Checkpoint, TensorInfo
from octavo_models.formats import FORMATS
from octavo_models.spec import ModelSpec, Weight

PLAIN = {"f32", "f16", "bf16"}


@dataclass(frozen=True, slots=True)
class LoadedWeight:
    """A tensor's bytes. `data` is uint8 [rows, bytes of a row], contiguous and aligned to elements.

    `shape` is the weight's own, [out, in] or [n]; `format` a key of `FORMATS`. A vector is one row.
    """

    format: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def open_checkpoint(files: ModelFiles, spec: ModelSpec | None = None, seed: int = 0) -> Checkpoint:
    """The checkpoint of `files`, its headers read and checked; `dummy` ones are made up from `spec`.

    Raises:
        ModelLoadError: a file can't be read or contradicts itself; the message names it.
    """
    if files.weights_format == "gguf":
        from octavo_engine.weights.gguf import GgufCheckpoint  # noqa: PLC0415

        return GgufCheckpoint(files.weights)
    if files.weights_format == "safetensors":
        from octavo_engine.weights.safetensors import SafetensorsCheckpoint  # noqa: PLC0415

        return SafetensorsCheckpoint(files.weights)
    from octavo_engine.weights.dummy import DummyCheckpoint  # noqa: PLC0415

    assert spec is not None, "dummy weights are made up from a spec"
    return DummyCheckpoint(spec, seed)


def load_weights(
    spec: ModelSpec, checkpoint: Checkpoint, rows: Mapping[str, tuple[int, int]] | None = None
) -> Iterator[tuple[Weight, LoadedWeight]]:
    """Each weight of `spec`, in its order, transforms applied; whatever the executor lets go of is freed.

    `rows` names matrices of which only some rows are wanted (first, last + 1): the others are not even read, where
    they lie in the checkpoint as the weight has them.

    Raises:
        ModelLoadError: a tensor is missing, or has another shape or a dtype that can't be used.
    """
    where = _where(checkpoint)
    for weight in spec.weights:
        yield weight, _load(weight, checkpoint, where, rows.get(weight.name) if rows else None)


def load_pieces(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    rows: Mapping[str, tuple[int, int]],
    most_elements: int,
    whole: Collection[str] = (),
) -> Iterator[tuple[Weight, Iterator[LoadedWeight]]]:
    """As `load_weights`, with the matrices not in `whole` read some rows at a time: host memory holds no more of them.

    The pieces of a weight are consumed before the next weight is asked for. A matrix whose rows move while it is read
    is cut afterwards.
    """
    where = _where(checkpoint)
    for weight in spec.weights:
        most = None if weight.name in whole or len(weight.shape) == 1 else most_elements
        yield weight, _pieces(weight, checkpoint, where, rows.get(weight.name), most)


def _pieces(
    weight: Weight, checkpoint: Checkpoint, where: str, wanted: tuple[int, int] | None, most: int | None
) -> Iterator[LoadedWeight]:
    if most is None:
        yield _load(weight, checkpoint, where, wanted)
        return
    step = max(1, most // weight.shape[1])
    if len(weight.sources) > 1 or weight.transform != "none":
        loaded = _load(weight, checkpoint, where, wanted)
        for at in range(0, len(loaded.data), step):
            part = loaded.data[at : at + step]
            yield LoadedWeight(loaded.format, (len(part), *weight.shape[1:]), part)
        return
    _source(weight, weight.sources[0], checkpoint.tensors, where)
    first, last = wanted or (0, weight.shape[0])
    last = min(last, weight.shape[0])
    for at in range(first, last, step):
        yield _load(weight, checkpoint, where, (at, min(at + step, last)))


def _load(weight: Weight, checkpoint: Checkpoint, where: str, wanted: tuple[int, int] | None) -> LoadedWeight:
    parts = [_source(weight, name, checkpoint.tensors, where) for name in weight.sources]
    formats = {info.format for info in parts}
    if len(formats) > 1:
        raise ModelLoadError(f"{parts[0].path}: tensors {', '.join(weight.sources)} are stored in different formats")
    format_, cut = parts[0].format, weight.rows
    if wanted is not None and len(parts) == 1 and weight.transform == "none":
        first, last = cut or (0, weight.shape[0])
        cut, wanted = (min(first + wanted[0], last), min(first + wanted[1], last)), None
    arrays = [_read(checkpoint, info, cut if len(parts) == 1 else None) for info in parts]
    data = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if cut is not None and len(parts) > 1:
        data = data[cut[0] : cut[1]]
    if weight.transform == "unpermute":
        data = unpermute(data, weight.heads, weight.shape, FORMATS[format_].bytes_per_block)
    elif weight.transform == "transpose":
        data = _transposed(data, parts[0])
    if wanted is not None:
        data = data[wanted[0] : wanted[1]]
    shape = (len(data), *weight.shape[1:]) if len(weight.shape) > 1 else weight.shape
    return LoadedWeight(format_, shape, data)


def _source(weight: Weight, name: str, tensors: Mapping[str, TensorInfo], where: str) -> TensorInfo:
    info = tensors.get(name)
    if info is None:
        raise ModelLoadError(f"{where}: tensor {name} is missing")
    if info.format not in FORMATS or (info.format != weight.format and not {info.format, weight.format} <= PLAIN):
        raise ModelLoadError(f"{info.path}: tensor {name} is stored as {info.format}, where {weight.format} belongs")
    expected = weight.shape[::-1] if weight.transform == "transpose" else weight.shape
    whole = weight.rows is None and len(weight.sources) == 1
    fits = info.shape == expected if whole else info.shape[1:] == expected[1:]
    if weight.rows is not None:
        fits = fits and info.shape[0] >= weight.rows[1]
    if not fits:
        raise ModelLoadError(
            f"{info.path}: tensor {name} has the shape {list(info.shape)}; the model's config makes it {list(expected)}"
        )
    return info


def _read(checkpoint: Checkpoint, info: TensorInfo, rows: tuple[int, int] | None) -> NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]; a vector is one row."""
    if rows is None:
        rows = (0, info.shape[0])
    data = np.frombuffer(checkpoint.read(info.name, rows), np.uint8)
    return data.reshape(rows[1] - rows[0], info.nbytes // info.shape[0]) if len(info.shape) > 1 else data[None]


def unpermute(data: NDArray[np.uint8], heads: int, shape: tuple[int, ...], element_bytes: int) -> NDArray[np.uint8]:
    """Rows of each head from GGUF's order, pairs side by side, to halves: (2i, 2i+1) → (i, i + dim/2).

    Whole rows move, so quantized ones do too. `data` is [rows, row bytes]; a vector's elements are its rows.
    """
    rows = data if len(shape) > 1 else data.reshape(shape[0], element_bytes)
    pairs = rows.reshape(heads, shape[0] // heads // 2, 2, -1)
    moved = np.ascontiguousarray(pairs.swapaxes(1, 2))
    return moved.reshape(data.shape)


def _transposed(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.uint8]:
    if info.format not in PLAIN:
        raise ModelLoadError(f"{info.path}: tensor {info.name} is stored as {info.format}, which can't be transposed")
    element = FORMATS[info.format].bytes_per_block
    wide = data.reshape(info.shape[0], info.shape[1], element).swapaxes(0, 1)
    return np.ascontiguousarray(wide).reshape(info.shape[1], -1)


def _where(checkpoint: Checkpoint) -> str:
    paths = {info.path for info in checkpoint.tensors.values()}
    if len(paths) == 1:
        return str(paths.pop())
    return str(paths.pop().parent) if paths else "the checkpoint"
