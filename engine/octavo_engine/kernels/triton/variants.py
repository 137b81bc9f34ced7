"""The key that a kernel is compiled for, shared by launches, the compile report and the warm-up.

A kernel's variants differ by the types of its pointers, by its constants and by what Triton reads off its numbers: 1,
and multiples of 16. Each kernel declares what is left out of this: numbers that change from step to step
(`do_not_specialize`), and pointers that may lie anywhere (`do_not_specialize_on_alignment`). The others begin at
multiples of 16 bytes, as whatever torch allocates does; one that does not is a variant that nothing was prepared for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import MockTensor

ALIGNED = 16  # bytes, and the divisor that Triton looks for in numbers

# What stands for a number in a key, by what Triton reads off it. Any other of its kind gives the same code.
MULTIPLE, OTHER, FLOAT = 16, 2, 0.5
WIDE = 1 << 31  # from here on a number takes 64 bits


class Pointer(NamedTuple):
    """A tensor in a key."""

    dtype: torch.dtype
    aligned: bool


class Unspecialized(NamedTuple):
    """The positions of a kernel's arguments that Triton reads nothing off."""

    numbers: frozenset[int]
    pointers: frozenset[int]


@cache
def unspecialized(kernel: Any) -> Unspecialized:
    """The arguments that a kernel's decorator declares unspecialized; of an interpreted kernel too."""
    given = kernel.kwargs if hasattr(kernel, "kwargs") else vars(kernel)
    names = list(inspect.signature(kernel.fn).parameters)

    def positions(option: str) -> frozenset[int]:
        return frozenset(names.index(name) for name in given.get(option) or ())

    return Unspecialized(positions("do_not_specialize"), positions("do_not_specialize_on_alignment"))


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel's code. Equal variants of one capability are one entry of Triton's cache, and different ones two."""

    module: str
    name: str
    args: tuple[Pointer | float | None, ...]
    options: tuple[tuple[str, Any], ...]  # constants, and num_warps and num_stages where said

    @classmethod
    def of(cls, kernel: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Variant:
        """The variant that serves this launch."""
        free = unspecialized(kernel)
        key = tuple(_read_off(arg, i in free.numbers, i in free.pointers) for i, arg in enumerate(args))
        return cls(kernel.fn.__module__, kernel.fn.__name__, key, tuple(sorted(options.items())))

    @property
    def kernel(self) -> Any:
        return getattr(import_module(self.module), self.name)

    def arguments(self) -> list[Any]:
        """Stand-ins of this variant for a launch that is compiled and not run."""
        return [_Address(arg) if isinstance(arg, Pointer) else arg for arg in self.args]

    def __str__(self) -> str:
        shown = ", ".join(str(a.dtype).removeprefix("torch.") if isinstance(a, Pointer) else str(a) for a in self.args)
        return f"{self.name}({shown}; {', '.join(f'{name}={value}' for name, value in self.options)})"


class _Address(MockTensor):  # type: ignore[misc]
    """A stand-in for a tensor, without memory."""

    def __init__(self, pointer: Pointer) -> None:
        super().__init__(pointer.dtype)
        self._at = 0 if pointer.aligned else pointer.dtype.itemsize

    def data_ptr(self) -> int:
        return self._at


def _read_off(arg: Any, number_is_free: bool, pointer_is_free: bool) -> Pointer | float | None:
    if isinstance(arg, Tensor):
        # On the meta device the address is the place within the tensor's own storage, which begins aligned on a GPU.
        return Pointer(arg.dtype, pointer_is_free or arg.data_ptr() % ALIGNED == 0)
    if arg is None:
        return None
    assert not isinstance(arg, bool), "flags are constants, which are passed by name"
    if isinstance(arg, float):
        return FLOAT
    wide = WIDE if arg >= WIDE else 0
    if number_is_free:
        return wide + OTHER
    return wide + (1 if arg == 1 else MULTIPLE if arg % ALIGNED == 0 else OTHER)


class NoGpu:
    """Stands for a GPU's driver where there is none, or for another GPU's: compiling asks for no more than its kind."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it has compiled by the device

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def compiled_for(capability: int, variant: Variant) -> Any:
    """`compiled` for that compute capability, with or without a GPU. Nothing can be launched in this process then."""
    driver.set_active(NoGpu(capability))
    return compiled(variant)


def compiled(variant: Variant) -> Any:
    """The variant's code, as Triton's own launch would make it or find it in its cache: for the active driver's target.

    Raises:
        Exception: it can't be compiled; the compiler's passes raise what they like.
    """
    # Said because Triton 3.10 changes what it does unsaid.
    return variant.kernel.warmup(*variant.arguments(), grid=(1,), **dict(variant.options), enable_fp_fusion=True)
