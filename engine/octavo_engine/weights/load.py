"""Gives an executor its weights one by one, under the spec's names: whole rows, in the format they are stored in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import Checkpoint, TensorInfo
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.float_formats import to_format
from octavo_models.errors import ModelError
from octavo_models.formats import FORMATS, format_of_transposed
from octavo_models.spec import ModelSpec, Weight
from octavo_models.tensors import Source, TransposeHeads, Unpermute

PLAIN = {"f32", "f16", "bf16"}
SHORTEST = 1e-12  # torch.nn.functional.normalize divides by no less
Ranges = Sequence[tuple[int, int]]  # of rows: first, last + 1


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


def load_weights(spec: ModelSpec, checkpoint: Checkpoint) -> Iterator[tuple[Weight, LoadedWeight]]:
    """Each weight of `spec`, in its order, transforms applied; a weight that the executor drops is freed.

    Raises:
        ModelLoadError: a tensor is missing, or has another shape or a dtype that can't be used.
    """
    where = _checked(spec, checkpoint)
    for weight in spec.weights:
        yield weight, _load(weight, checkpoint, where, _all_of(weight))


def load_pieces(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    rows: Mapping[str, Ranges],
    most_elements: int,
    whole: Collection[str] = (),
) -> Iterator[tuple[Weight, Iterator[LoadedWeight]]]:
    """Yield weights as `load_weights` does, but matrices that are not in `whole` in pieces of some rows.

    A piece has at most `most_elements` elements, or one row, which bounds the host memory.

    `rows` names matrices of which only some rows are needed (first, last + 1): the others are not even read, if the
    checkpoint stores the weight's rows one after another. Consume the pieces of a weight before requesting the next
    weight. Rows that move while they are read are cut afterwards.
    """
    where = _checked(spec, checkpoint)
    for weight in spec.weights:
        ranges = rows.get(weight.name) or _all_of(weight)
        if weight.name in whole or len(weight.shape) == 1:
            yield weight, iter((_load(weight, checkpoint, where, ranges),))
        else:
            step = max(1, most_elements // weight.shape[1])
            yield weight, _pieces(weight, checkpoint, where, ranges, step)


def _checked(spec: ModelSpec, checkpoint: Checkpoint) -> str:
    """Check that all headers fit, for the last tensor of a large model is read minutes later; return where they are."""
    where = _where(checkpoint)
    for weight in spec.weights:
        _runs(weight, checkpoint, where)
    return where


def _all_of(weight: Weight) -> Ranges:
    return ((0, weight.shape[0]),)


def _load(weight: Weight, checkpoint: Checkpoint, where: str, ranges: Ranges) -> LoadedWeight:
    """The rows of `ranges` in one."""
    pieces = list(_pieces(weight, checkpoint, where, ranges, weight.shape[0]))
    data = pieces[0].data if len(pieces) == 1 else np.concatenate([piece.data for piece in pieces])
    if len(weight.shape) == 1:
        return LoadedWeight(pieces[0].format, weight.shape, data.reshape(1, -1))
    return LoadedWeight(pieces[0].format, (len(data), *weight.shape[1:]), data)


def _pieces(weight: Weight, checkpoint: Checkpoint, where: str, ranges: Ranges, step: int) -> Iterator[LoadedWeight]:
    """The rows of `ranges`, at most `step` at a time, in the order of the ranges."""
    runs = _runs(weight, checkpoint, where)
    stored = runs[0].tensor.format
    if weight.transform is not None:
        moved = np.concatenate([_rows(run, checkpoint, 0, run.count) for run in runs])
        match weight.transform:
            case Unpermute(heads):
                data = _unpermuted(moved, heads)
            case TransposeHeads(heads):
                data = _transposed_heads(moved, runs[0].tensor.format, heads)
                stored = format_of_transposed(stored)
            case _:
                data = _unit_rows(moved, runs[0].tensor)
        parts = (data[at : min(at + step, last)] for first, last in ranges for at in range(first, last, step))
    else:
        parts = (
            part
            for first, last in ranges
            for run in runs
            if run.first < last and first < run.first + run.count
            for part in _parts(run, checkpoint, max(first - run.first, 0), min(last - run.first, run.count), step)
        )
    for part in parts:
        yield LoadedWeight(stored, (len(part), *weight.shape[1:]), part)


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of a weight that one tensor stores one after another: `count` from `first` on.

    They are the rows of the tensor from `stored` on. Where these are in another order, or other rows lie between them,
    they are read together, all `num_stored` of them.
    """

    source: Source
    tensor: TensorInfo
    first: int
    count: int
    stored: int
    num_stored: int
    in_order: bool


def _runs(weight: Weight, checkpoint: Checkpoint, where: str) -> list[_Run]:
    """All rows of the weight."""
    size = weight.stored_shape[0] // len(weight.sources)
    runs: list[_Run] = []
    for i, source in enumerate(weight.sources):
        tensor = _tensor(weight, source, checkpoint.tensors, where)
        runs += _runs_of(source, tensor, i * size, size)
    first = runs[0].tensor
    other = next((run.tensor for run in runs if run.tensor.format != first.format), None)
    if other is not None:
        raise ModelLoadError(
            f"{other.path}: tensor {other.name} is stored as {other.format}, and {first.name}, which it is joined with, as "
            f"{first.format}; fetch a file of this model that has one format for both"
        )
    return runs


def _runs_of(source: Source, tensor: TensorInfo, first: int, count: int) -> list[_Run]:
    rows = source.rows
    if not source.transposed and (rows is None or rows.groups == 1):
        return [_Run(source, tensor, first, count, 0 if rows is None else rows.first, count, in_order=True)]
    parts = math.prod(source.axes(tensor.shape)[:-2])  # experts, each with rows of its own
    if rows is not None and rows.groups % parts:
        parts = 1
    of_weight, of_tensor = count // parts, tensor.num_rows // parts
    return [
        _Run(source, tensor, first + i * of_weight, of_weight, i * of_tensor, of_tensor, in_order=False)
        for i in range(parts)
    ]


def _parts(run: _Run, checkpoint: Checkpoint, first: int, last: int, step: int) -> Iterator[NDArray[np.uint8]]:
    """Rows `first` … `last` - 1 of the run, at most `step` at a time."""
    if run.in_order:
        for at in range(first, last, step):
            yield _rows(run, checkpoint, at, min(at + step, last))
        return
    data = _rows(run, checkpoint, first, last)
    for at in range(0, len(data), step):
        yield data[at : at + step]


def _rows(run: _Run, checkpoint: Checkpoint, first: int, last: int) -> NDArray[np.uint8]:
    """Rows `first` … `last` - 1 of the run: uint8 [rows, bytes of a row]; each element of a vector is a row."""
    if run.in_order:
        return _read(checkpoint, run.tensor, (run.stored + first, run.stored + last))
    data = _read(checkpoint, run.tensor, (run.stored, run.stored + run.num_stored))
    if run.source.transposed:
        data = _transposed(data, run.tensor, run.source)
    rows = run.source.rows
    if rows is not None:
        groups = data.reshape(-1, rows.of, data.shape[1])
        taken = groups[:, rows.first : rows.first + rows.count].reshape(-1, data.shape[1])
        data = np.ascontiguousarray(taken)  # of one row a group, numpy makes a view
    return data[first:last]


def _tensor(weight: Weight, source: Source, tensors: Mapping[str, TensorInfo], where: str) -> TensorInfo:
    info = tensors.get(source.tensor)
    try:
        weight.check(source, None if info is None else info.shape, "the model's config")
    except ModelError as error:
        raise ModelLoadError(f"{where if info is None else info.path}: {error}") from error
    assert info is not None
    turned = isinstance(weight.transform, TransposeHeads)
    held = format_of_transposed(info.format) if turned and info.format in FORMATS else info.format
    if info.format not in FORMATS or (held != weight.format and not {held, weight.format} <= PLAIN):
        raise ModelLoadError(
            f"{info.path}: tensor {info.name} is stored as {info.format}, where {weight.format} belongs; fetch the plain "
            "model, or a GGUF file of it"
        )
    if len(weight.shape) == 1:
        return replace(info, shape=(math.prod(info.shape),))  # whatever axes it is stored with
    if len(info.shape) == 1:
        return replace(info, shape=weight.shape)  # a matrix of one row
    return info


def _read(checkpoint: Checkpoint, info: TensorInfo, rows: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]; each element of a vector is a row."""
    if info.shape != checkpoint.tensors[info.name].shape:
        whole = np.frombuffer(checkpoint.read(info.name), np.uint8)
        return whole.reshape(info.num_rows, -1)[rows[0] : rows[1]]
    data = np.frombuffer(checkpoint.read(info.name, rows), np.uint8)
    return data.reshape(rows[1] - rows[0], info.nbytes // info.num_rows)


def _unpermuted(rows: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """Rows of each head from rotary pairs, side by side, to halves: (2i, 2i+1) → (i, i + dim/2).

    Whole rows move, so quantized ones do too.
    """
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _transposed_heads(rows: NDArray[np.uint8], format_: str, heads: int) -> NDArray[np.uint8]:
    """Each head's matrix transposed; of blocks, their numbers, as `format_of_transposed` says."""
    if format_ not in PLAIN:
        rows = to_format(dequantize(format_, rows), format_of_transposed(format_)).reshape(len(rows), -1)
        format_ = format_of_transposed(format_)
    element = FORMATS[format_].bytes_per_block
    turned = rows.reshape(heads, len(rows) // heads, -1, element).swapaxes(1, 2)
    return np.ascontiguousarray(turned).reshape(heads * turned.shape[1], -1)


def _unit_rows(rows: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.uint8]:
    """Rows of length 1, in the format that they were stored in."""
    if info.format not in PLAIN:
        raise ModelLoadError(f"{info.path}: tensor {info.name} is stored as {info.format}, which can't be normalized")
    values = dequantize(info.format, rows)
    lengths = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), SHORTEST)
    return to_format(values / lengths, info.format).reshape(rows.shape)


def _transposed(data: NDArray[np.uint8], info: TensorInfo, source: Source) -> NDArray[np.uint8]:
    if info.format not in PLAIN:
        raise ModelLoadError(f"{info.path}: tensor {info.name} is stored as {info.format}, which can't be transposed")
    element = FORMATS[info.format].bytes_per_block
    inputs, outputs = source.axes(info.shape)[-2:]
    wide = data.reshape(-1, inputs, outputs, element).swapaxes(1, 2)
    return np.ascontiguousarray(wide).reshape(-1, inputs * element)


def _where(checkpoint: Checkpoint) -> str:
    paths = {info.path for info in checkpoint.tensors.values()}
    if len(paths) == 1:
        return str(paths.pop())
    return str(paths.pop().parent) if paths else "the checkpoint"
