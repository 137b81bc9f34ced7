"""Gives an executor its weights one by one, under the spec's names: whole rows, in the format they are stored in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import Checkpoint, TensorInfo
from octavo_models.formats import FORMATS
from octavo_models.spec import ModelSpec, Weight
from octavo_models.tensors import Source

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
    """Each weight of `spec`, in its order, transforms applied; a weight that the executor drops is freed.

    `rows` names matrices of which only some rows are needed (first, last + 1): the others are not even read, if the
    checkpoint stores the weight's rows one after another.

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
    """Yield weights as `load_weights` does, but matrices that are not in `whole` in pieces of some rows.

    A piece has at most `most_elements` elements, or one row, which bounds the host memory.

    Consume the pieces of a weight before requesting the next weight. A matrix whose rows move while it is read
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
    if weight.first_row is None:
        loaded = _load(weight, checkpoint, where, wanted)
        for at in range(0, len(loaded.data), step):
            part = loaded.data[at : at + step]
            yield LoadedWeight(loaded.format, (len(part), *weight.shape[1:]), part)
        return
    _tensor(weight, weight.sources[0], checkpoint.tensors, where)
    first, last = wanted or (0, weight.shape[0])
    last = min(last, weight.shape[0])
    for at in range(first, last, step):
        yield _load(weight, checkpoint, where, (at, min(at + step, last)))


def _load(weight: Weight, checkpoint: Checkpoint, where: str, wanted: tuple[int, int] | None) -> LoadedWeight:
    tensors = [_tensor(weight, source, checkpoint.tensors, where) for source in weight.sources]
    if len({tensor.format for tensor in tensors}) > 1:
        names = ", ".join(tensor.name for tensor in tensors)
        raise ModelLoadError(f"{tensors[0].path}: tensors {names} are stored in different formats")
    first, last = wanted or (0, weight.shape[0])
    last = min(last, weight.shape[0])
    if weight.first_row is not None:
        data = _read(checkpoint, tensors[0], (weight.first_row + first, weight.first_row + last))
    else:
        parts = [_rows(source, tensor, checkpoint) for source, tensor in zip(weight.sources, tensors, strict=True)]
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if weight.transform is not None:
            data = _unpermuted(data, weight.transform.heads)
        data = data[first:last]
    if len(weight.shape) == 1:
        return LoadedWeight(tensors[0].format, weight.shape, data.reshape(1, -1))
    return LoadedWeight(tensors[0].format, (len(data), *weight.shape[1:]), data)


def _tensor(weight: Weight, source: Source, tensors: Mapping[str, TensorInfo], where: str) -> TensorInfo:
    info = tensors.get(source.tensor)
    if info is None:
        raise ModelLoadError(f"{where}: tensor {source.tensor} is missing")
    if info.format not in FORMATS or (info.format != weight.format and not {info.format, weight.format} <= PLAIN):
        raise ModelLoadError(
            f"{info.path}: tensor {info.name} is stored as {info.format}, where {weight.format} belongs"
        )
    if not weight.fits(source, info.shape):
        rows = weight.shape[0] // len(weight.sources) if source.rows is None else source.rows.of * source.rows.groups
        expected = (rows, *weight.shape[1:])[:: -1 if source.transposed else 1]
        raise ModelLoadError(
            f"{info.path}: tensor {info.name} has the shape {list(info.shape)}; "
            f"the model's config makes it {list(expected)}"
        )
    if len(weight.shape) == 1:
        return replace(info, shape=(math.prod(info.shape),))  # whatever axes it is stored with
    return info


def _read(checkpoint: Checkpoint, info: TensorInfo, rows: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]; each element of a vector is a row."""
    if info.shape != checkpoint.tensors[info.name].shape:
        whole = np.frombuffer(checkpoint.read(info.name), np.uint8)
        return whole.reshape(info.num_rows, -1)[rows[0] : rows[1]]
    data = np.frombuffer(checkpoint.read(info.name, rows), np.uint8)
    return data.reshape(rows[1] - rows[0], info.nbytes // info.num_rows)


def _rows(source: Source, info: TensorInfo, checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """The rows of a source that is not stored as the weight has it, or not alone."""
    data = _read(checkpoint, info, (0, info.num_rows))
    if source.transposed and len(info.shape) > 1:
        data = _transposed(data, info)
    if source.rows is None:
        return data
    groups = data.reshape(source.rows.groups, -1, data.shape[1])
    rows = groups[:, source.rows.first : source.rows.first + source.rows.count].reshape(-1, data.shape[1])
    return np.ascontiguousarray(rows)  # of one row a group, numpy makes a view


def _unpermuted(rows: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """Rows of each head from rotary pairs, side by side, to halves: (2i, 2i+1) → (i, i + dim/2).

    Whole rows move, so quantized ones do too.
    """
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _transposed(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.uint8]:
    if info.format not in PLAIN:
        raise ModelLoadError(f"{info.path}: tensor {info.name} is stored as {info.format}, which can't be transposed")
    element = FORMATS[info.format].bytes_per_block
    *outer, inputs, outputs = info.shape
    wide = data.reshape(-1, inputs, outputs, element).swapaxes(1, 2)
    return np.ascontiguousarray(wide).reshape(math.prod(outer) * outputs, -1)


def _where(checkpoint: Checkpoint) -> str:
    paths = {info.path for info in checkpoint.tensors.values()}
    if len(paths) == 1:
        return str(paths.pop())
    return str(paths.pop().parent) if paths else "the checkpoint"
