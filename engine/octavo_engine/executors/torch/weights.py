"""A checkpoint's tensors under their canonical names, widened to one dtype on one device."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.config import ModelFiles
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.load import load_weights, open_checkpoint
from octavo_models.spec import ModelSpec


def read_weights(
    spec: ModelSpec, files: ModelFiles, dtype: torch.dtype, device: torch.device, seed: int
) -> dict[str, Tensor]:
    """Canonical name -> [out, in] or [dim]. `seed` is for dummy weights.

    Raises:
        ModelLoadError: a tensor is missing, malformed or of another shape.
    """
    checkpoint = open_checkpoint(files, spec, seed)
    try:
        return {
            weight.name: torch.from_numpy(dequantize(stored.format, stored.data).copy())
            .view(weight.shape)
            .to(device, dtype)
            for weight, stored in load_weights(spec, checkpoint)
        }
    finally:
        checkpoint.close()
