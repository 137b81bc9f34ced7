"""The numbers that a model is computed in, by the flag and by what its checkpoint stores."""

from __future__ import annotations

import torch

from octavo_engine.config import DType
from octavo_models.outline import Model
from octavo_models.spec import FORMAT_OF_DTYPE

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def dtypes_of(asked: DType, spec: Model, *, on_gpu: bool) -> tuple[torch.dtype, str]:
    """The dtype that a model is computed in, and the format of its KV blocks.

    GPUs are not made for float32: `auto` takes bfloat16 there for checkpoints of it, and beside quantized weights.
    """
    name: str = asked
    if name == "auto":
        name = "bfloat16" if on_gpu and spec.dtype == "float32" else spec.dtype
    widened = asked == "auto" and spec.quantization is not None and name == "float32"
    return DTYPES[name], "bf16" if widened else FORMAT_OF_DTYPE[name]
