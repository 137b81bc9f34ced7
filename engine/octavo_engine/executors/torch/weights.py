"""A checkpoint's tensors under their canonical names, widened to one dtype.

Owns the transforms of `octavo_models.spec.Weight` as torch operations. Knows nothing of layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.errors import ModelLoadError
from octavo_engine.kernels.dequantize import dequantize
from octavo_engine.weights.checkpoint import Checkpoint
from octavo_models.spec import ModelSpec, Weight


class WeightReader:
    """Calls with a canonical name give the tensor: [out, in] or [dim], in `dtype` on `device`."""

    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.weights = {w.name: w for w in spec.weights}
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.device = device

    def __call__(self, name: str) -> Tensor:
        """Raises:
        ModelLoadError: the checkpoint lacks the tensor, or has it in another shape.
        """
        weight = self.weights[name]
        parts = [self._source(source) for source in weight.sources]
        tensor = torch.stack(parts) if weight.transform == "stack" else torch.cat(parts)
        if weight.rows is not None:
            tensor = tensor[slice(*weight.rows)]
        tensor = transformed(tensor, weight)
        if tuple(tensor.shape) != weight.shape:
            raise ModelLoadError(
                f"{name}: the checkpoint's {', '.join(weight.sources)} has the shape {list(tensor.shape)}, "
                f"and the model's config asks for {list(weight.shape)}"
            )
        return tensor.to(self.device, self.dtype).contiguous()

    def _source(self, name: str) -> Tensor:
        data = torch.frombuffer(bytearray(self.checkpoint.read(name)), dtype=torch.uint8)
        info = self.checkpoint.tensors[name]
        return dequantize(data, info.format, info.shape)


def transformed(tensor: Tensor, weight: Weight) -> Tensor:
    """Undo what a checkpoint's layout did to the tensor.

    `unpermute`: GGUF's Llama rows interleave the halves of each head, [heads, head_dim / 2, 2]; here the two halves
    follow each other, [heads, 2, head_dim / 2].
    """
    if weight.transform == "transpose":
        return tensor.transpose(-1, -2)
    if weight.transform == "unpermute":
        rows = tensor.unflatten(0, (weight.heads, -1, 2))
        return rows.transpose(1, 2).flatten(0, 2)
    return tensor
