"""Makes Triton's interpreter compute with narrow floats as GPUs do, and in less time. For tests on machines without one.

Triton (3.6 to 3.9) interprets bfloat16 as its bits: casts to it cut the mantissa off, products multiply the bits, and
casts to float8 lose the carry of rounding. `correct_interpreter` replaces these three by torch's own conversions, and lets floats
overflow in silence.

It also replaces the language's functions by interpreted ones at each call of a device function, which takes longer than
most of them; here that is done once a launch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

FLOATS = {
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
BITS = {8: (np.uint8, torch.uint8), 16: (np.int16, torch.int16), 32: (np.int32, torch.int32)}
_convert_float = interpreter._convert_float  # noqa: SLF001
_create_dot = interpreter.InterpreterBuilder.create_dot
_run_grid = interpreter.GridExecutor.__call__
_patch_lang = interpreter._patch_lang  # noqa: SLF001
_patched: set[int] = set()  # by id: the modules of the language whose functions are interpreted ones in this launch


def convert(values: Any, source: Any, target: Any, rounding: Any) -> Any:
    """Bits of `target` for bits of `source`, rounded to nearest even; both as numpy's unsigned integers."""
    if source not in FLOATS or target not in FLOATS:
        return _convert_float(values, source, target, rounding)
    bits, _ = BITS[source.primitive_bitwidth]
    held = torch.from_numpy(np.ascontiguousarray(values).view(bits).copy()).view(FLOATS[source])
    out = held.to(FLOATS[target]).view(BITS[target.primitive_bitwidth][1]).numpy()
    return out.view(f"uint{target.primitive_bitwidth}").reshape(np.shape(values))


def dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
    """a @ b + d, operands widened to float32 first where they are narrower than float16."""

    def wide(x: Any) -> Any:
        if x.dtype.scalar not in {tl.bfloat16, tl.float8e4nv, tl.float8e5}:
            return x
        data = convert(x.data, x.dtype.scalar, tl.float32, None).view(np.float32)
        return interpreter.TensorHandle(data, tl.float32)

    return _create_dot(self, wide(a), wide(b), d, *options)


def run_grid(self: Any, *args: Any, **options: Any) -> Any:
    """Launch as before; numpy's warnings of infinities, which a GPU doesn't give, are off."""
    _patched.clear()
    try:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return _run_grid(self, *args, **options)
    finally:
        _patched.clear()


def patch_lang(function: Any) -> Any:
    """Replace what `function` sees of the language, unless the launch has; what takes that back at the launch's end."""
    seen = {id(value) for value in function.__globals__.values() if value is tl or value is tl.core}
    if seen and seen <= _patched:
        return interpreter._LangPatchScope()  # noqa: SLF001
    _patched.update(seen)
    return _patch_lang(function)


def correct_interpreter() -> None:
    """Replace them, once a process; harmless where kernels are compiled."""
    interpreter._convert_float = convert  # noqa: SLF001
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.GridExecutor.__call__ = run_grid
    interpreter._patch_lang = patch_lang  # noqa: SLF001
