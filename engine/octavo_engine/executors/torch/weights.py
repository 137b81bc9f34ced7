"""A rank's tensors under their canonical names on one device: packed as their blocks are, or of one dtype.

Host memory holds a piece of one matrix at a time: plain numbers are viewed as they are stored, cut to the rank's
columns, and converted on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from octavo_engine.config import ModelFiles
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.packing import Stored, pack_blocks
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.load import LoadedWeight, load_pieces, open_checkpoint
from octavo_models.partition import Place, Shard, shards
from octavo_models.spec import ModelSpec

PIECE_ELEMENTS = 1 << 22  # of a matrix, whole rows of it, that are read and converted at a time
PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
Matrix = TypeVar("Matrix", Tensor, NDArray[np.uint8])


def read_weights(
    spec: ModelSpec,
    files: ModelFiles,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    place: Place,
    *,
    packed: bool = False,
) -> dict[str, Stored]:
    """Canonical name -> [out, in] or [dim]: the part of the model `spec` that the rank at `place` runs.

    `seed` is for dummy weights, which are the same however the model is divided. `packed` leaves a quantized file's
    matrices in their few bits, where they can be (`formats.stays_packed`); the rest is of `dtype`.

    Raises:
        ModelLoadError: a tensor is missing, malformed or of another shape.
    """
    mine = list(shards(spec, place))
    wanted = replace(spec, weights=tuple(shard.whole for shard in mine))
    rows = {
        shard.whole.name: tuple((first, min(last, shard.whole.shape[0])) for first, last in shard.row_ranges)
        for shard in mine
        if shard.axis == 0 and len(shard.weight.shape) > 1
    }
    stay = {
        shard.whole.name for shard in mine if packed and not shard.zero and shard.whole.stays_packed(shard.weight.shape)
    }
    checkpoint = open_checkpoint(files, spec, seed)
    held: dict[str, Stored] = {}
    try:
        for shard, (_, pieces) in zip(mine, load_pieces(wanted, checkpoint, rows, PIECE_ELEMENTS, stay), strict=True):
            name = shard.weight.name
            if shard.whole.name in stay:
                held[name] = _packed(shard, next(pieces)).map(lambda t: t.to(device))
            else:
                held[name] = _assembled(shard, pieces, dtype, device)
    finally:
        checkpoint.close()
    return held


def _assembled(shard: Shard, pieces: Iterator[LoadedWeight], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The rank's part, of the shape of `shard.weight`; of a matrix that is cut by rows, `pieces` have the part alone."""
    shape = shard.weight.shape
    if shard.zero:
        next(pieces, None)  # as every tensor, it must be there
        return torch.zeros(shape, dtype=dtype, device=device)
    if len(shape) == 1:
        vector = _numbers(shard, next(pieces))[0]
        if shard.axis == 0:
            vector = torch.cat([vector[first:last] for first, last in shard.row_ranges])
        return pad(vector.to(device, dtype), (0, shape[0] - len(vector)))
    held = torch.empty(shape, dtype=dtype, device=device)
    at = 0
    for piece in pieces:
        part = _numbers(shard, piece)
        held[at : at + len(part)].copy_(part.to(device))  # converted there
        at += len(part)
    held[at:].zero_()  # the last rank's rows are padded
    return held


def _numbers(shard: Shard, stored: LoadedWeight) -> Tensor:
    """[rows, the rank's columns]: as stored where that is plain numbers, else float32."""
    plain = PLAIN.get(stored.format)
    if plain is None:
        return _columns(shard, torch.from_numpy(dequantize(stored.format, stored.data)))
    return torch.from_numpy(_columns(shard, stored.data).copy()).view(plain)


def _packed(shard: Shard, stored: LoadedWeight) -> PackedWeight:
    whole = pack_blocks(stored.format, torch.from_numpy(stored.data.copy()))
    if shard.axis == 1:
        whole = whole.columns(shard.start, shard.start + shard.weight.shape[1])
    return whole.padded_rows(shard.weight.shape[0] - whole.shape[0])


def _columns(shard: Shard, matrix: Matrix) -> Matrix:
    """The rank's, of numbers or of the bytes or scales that stand for several: cut at the same share of a row."""
    if shard.axis != 1:
        return matrix
    whole, size = shard.whole.shape[1], shard.weight.shape[1]
    first, last = (at * matrix.shape[1] // whole for at in (shard.start, shard.start + size))
    return matrix[:, first:last]
