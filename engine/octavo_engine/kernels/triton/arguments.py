"""The properties that kernels take for granted of their tensors, asserted before each launch.

Kernels compute addresses from shapes alone: a tensor is contiguous, or its first dimension alone has a stride, which
the launch passes along (KV caches, persistent tables). Alignment is not among it: Triton reads each pointer's at its
launch, and compiles for it. Offsets within a table or cache are 64 bits wide, so slots and positions are int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
CACHED = (*FLOATS, torch.float8_e4m3fn)
ANY = -1


def expect(x: Tensor | None, shape: Sequence[int], *dtypes: torch.dtype, strided: bool = False) -> None:
    """Assert that `x`, where there is one, has this shape (ANY: of any size), one of these dtypes, and lies dense.

    `strided`: rows may lie apart; each is dense.
    """
    if x is None:
        return
    got = x.shape
    if got != shape:  # a loop: some hundred of these come before a step's launches
        assert len(shape) == len(got), _misfit(x, shape)
        for want, size in zip(shape, got, strict=True):
            assert want in (size, ANY), _misfit(x, shape)
    assert x.dtype in dtypes, f"a tensor of {x.dtype}, where a kernel expects {dtypes}"
    assert x.is_contiguous() or (strided and rows_are_dense(x)), f"strides {x.stride()} of shape {tuple(got)}"


def signature(x: Tensor | None) -> tuple[torch.dtype, torch.Size] | None:
    """The properties that `expect` checks of a tensor, except for its strides."""
    return None if x is None else (x.dtype, x.shape)


def _misfit(x: Tensor, shape: Sequence[int]) -> str:
    return f"a tensor of shape {tuple(x.shape)}, where a kernel expects {tuple(shape)}"


def rows_are_dense(x: Tensor) -> bool:
    """True if x[0], x[1] … are contiguous each, wherever they lie."""
    return x.is_contiguous() or (x.dim() > 1 and x[:1].squeeze(0).is_contiguous())


def strides_are_known(args: Sequence[Any]) -> bool:
    """True if each tensor among a kernel's arguments is dense, or of dense rows whose stride is an argument too."""
    strides = {arg for arg in args if type(arg) is int}
    return all(
        x.is_contiguous() or (x.stride(0) in strides and rows_are_dense(x)) for x in args if isinstance(x, Tensor)
    )


@cache
def next_power_of_2(n: int) -> int:
    """The smallest one that is not below `n`, which is at least 1. As Triton's, which costs a launch's time."""
    return 1 << (n - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. As Triton's."""
    return -(-a // b)
