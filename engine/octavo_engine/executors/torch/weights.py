"""A rank's tensors under their canonical names on one device: packed as their blocks are, or widened to one dtype."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from octavo_engine.config import ModelFiles
from octavo_engine.kernels.packing import Stored, pack_blocks
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.load import LoadedWeight, load_weights, open_checkpoint
from octavo_models.formats import stays_packed
from octavo_models.partition import Place, Shard, shards
from octavo_models.spec import ModelSpec


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
        shard.whole.name: (shard.start, shard.start + shard.weight.shape[0])
        for shard in mine
        if shard.axis == 0 and len(shard.weight.shape) > 1
    }
    checkpoint = open_checkpoint(files, spec, seed)
    held: dict[str, Stored] = {}
    try:
        for shard, (_, stored) in zip(mine, load_weights(wanted, checkpoint, rows), strict=True):
            tensor = _cut(shard, stored, packed=packed)
            if isinstance(tensor, Tensor):
                held[shard.weight.name] = tensor.to(device, dtype)
            else:
                held[shard.weight.name] = tensor.map(lambda t: t.to(device))
    finally:
        checkpoint.close()
    return held


def _cut(shard: Shard, stored: LoadedWeight, *, packed: bool) -> Stored:
    """The rank's part, of the shape of `shard.weight`; of a matrix that is cut by rows, `stored` has the part alone."""
    shape, whole, start = shard.weight.shape, shard.whole.shape, shard.start
    if shard.zero:
        return torch.zeros(shape)
    if len(shape) == 1:
        vector = torch.from_numpy(dequantize(stored.format, stored.data)[0, start : start + shape[0]].copy())
        return pad(vector, (0, shape[0] - len(vector)))

    def columns_and_padding(matrix: Tensor) -> Tensor:
        """Of numbers, or of the bytes or scales that stand for several: they are cut at the same share of a row."""
        if shard.axis == 1:
            first, last = (at * matrix.shape[1] // whole[1] for at in (start, start + shape[1]))
            matrix = matrix[:, first:last]
        missing = shape[0] - matrix.shape[0]
        return pad(matrix, (0, 0, 0, missing)) if missing else matrix.contiguous()

    if packed and stays_packed(stored.format, shape):
        return pack_blocks(stored.format, torch.from_numpy(stored.data.copy())).map(columns_and_padding)
    return columns_and_padding(torch.from_numpy(dequantize(stored.format, stored.data).copy()))
