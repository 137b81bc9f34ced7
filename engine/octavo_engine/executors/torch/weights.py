"""A rank's tensors under their canonical names, widened to one dtype on one device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from octavo_engine.config import ModelFiles
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.load import LoadedWeight, load_weights, open_checkpoint
from octavo_models.partition import Place, Shard, shards
from octavo_models.spec import ModelSpec


def read_weights(
    spec: ModelSpec, files: ModelFiles, dtype: torch.dtype, device: torch.device, seed: int, place: Place
) -> dict[str, Tensor]:
    """Canonical name -> [out, in] or [dim]: the part of the model `spec` that the rank at `place` runs.

    `seed` is for dummy weights, which are the same however the model is divided.

    Raises:
        ModelLoadError: a tensor is missing, malformed or of another shape.
    """
    mine = list(shards(spec, place))
    wanted = replace(spec, weights=tuple(shard.whole for shard in mine))
    checkpoint = open_checkpoint(files, spec, seed)
    try:
        return {
            shard.weight.name: _cut(shard, stored).to(device, dtype)
            for shard, (_, stored) in zip(mine, load_weights(wanted, checkpoint), strict=True)
        }
    finally:
        checkpoint.close()


def _cut(shard: Shard, stored: LoadedWeight) -> Tensor:
    """The rank's part, of the shape of `shard.weight`, and no view of the file."""
    shape = shard.weight.shape
    if shard.zero:
        return torch.zeros(shape)
    data, whole = stored.data, shard.whole.shape
    if shard.axis == 0 and len(whole) > 1:  # whole rows: only what is kept is widened
        data = data[shard.start : shard.start + shape[0]]
        whole = (len(data), *whole[1:])
    tensor = torch.from_numpy(dequantize(stored.format, data).copy()).view(whole)
    if shard.axis is None:
        return tensor
    if len(whole) == 1 or shard.axis > 0:
        tensor = tensor.narrow(shard.axis, shard.start, shape[shard.axis]).clone()
    missing = shape[0] - tensor.shape[0]
    return pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing)) if missing else tensor
