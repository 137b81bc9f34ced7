"""Launches on a GPU without Triton's search for the code, which costs the host tens of microseconds each time.

A launch is settled once for each combination of types, constants and fixed numbers; after that it passes addresses and
goes. What is compiled for which is `variants`'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from torch import Tensor
from triton.runtime.driver import driver

from octavo_engine.kernels.triton.arguments import strides_are_known
from octavo_engine.kernels.triton.launch import STRIDED, BoundLaunch, Gpu, Launcher, read_tuning
from octavo_engine.kernels.triton.variants import ALIGNED, Unspecialized, Variant, compiled, unspecialized

logger = logging.getLogger(__name__)

# (grid, addresses and numbers in the order of the kernel's arguments)
Code = Callable[[tuple[int, ...], Sequence[Any]], None]


@dataclass(frozen=True, slots=True)
class DirectLauncher(Launcher):
    """Launches compiled code by itself, found once and kept."""

    prepared: dict[Variant, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The code that is compiled and, on a GPU, loaded. A kernel that is not among it stalls a step: the log names it.
    """
    _free: dict[Any, Unspecialized] = field(default_factory=dict, init=False, repr=False, compare=False)
    _met: dict[tuple[Any, ...], Code] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """Launch kernel[grid] with args by position and constants by name, unless the grid is empty."""
        if 0 in grid:
            return
        function = kernel.fn  # in keys: Triton hashes a kernel by its source, each time
        free = self._free.get(function)
        if free is None:
            free = self._free[function] = unspecialized(kernel)
        free_numbers, free_pointers = free
        values: list[Any] = []
        key: list[Any] = [function, *options, *options.values()]
        dense = True
        for i, arg in enumerate(args):
            if isinstance(arg, Tensor):
                at = arg.data_ptr()
                values.append(at)
                key.append(arg.dtype)
                if at % ALIGNED and i not in free_pointers:
                    key.append(i)
                dense = dense and arg.is_contiguous()
            else:
                values.append(arg)
                if i not in free_numbers:
                    key.append(arg)
        assert dense or strides_are_known(args), STRIDED.format(kernel.__name__)
        run = self._met.get(tuple(key))
        if run is None:
            self._met[tuple(key)] = run = self._code(kernel, args, options)
        run(grid, values)

    def bind(
        self,
        kernel: Any,
        args: Sequence[Any],
        changing: Sequence[int],
        apart: Collection[int] = (),
        **options: Any,
    ) -> BoundLaunch:
        """See `Launcher.bind`. Tensors that do not begin at multiples of 16 bytes go the way of other launches."""
        settled = [None if i in changing else arg for i, arg in enumerate(args)]  # tensors of one call live no longer
        addresses = [arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in settled]
        run: Code | None = None

        def launch(grid: tuple[int, ...], *changed: Any) -> None:
            nonlocal run
            values, places = addresses.copy(), 0
            for i, arg in zip(changing, changed, strict=True):
                if arg is None or type(arg) is int:  # to ask whether it is a tensor takes longer
                    values[i] = arg
                else:
                    values[i] = at = arg.data_ptr()
                    places |= at
                    assert arg.is_contiguous() or i in apart, STRIDED.format(kernel.__name__)
            if 0 in grid:
                return
            if places % ALIGNED or run is None:
                now = settled.copy()
                for i, arg in zip(changing, changed, strict=True):
                    now[i] = arg
                if places % ALIGNED:
                    self(kernel, grid, *now, **options)
                    return
                run = self._code(kernel, now, options)
            run(grid, values)

        return launch

    def hold(self, codes: Mapping[Variant, Any]) -> None:
        """Load compiled kernels onto the GPU, so that their first launches need not."""
        for variant, code in codes.items():
            _ = code.run  # loads it
            self.prepared[variant] = code

    def _code(self, kernel: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Code:
        """The code for such arguments, compiled if need be."""
        variant = Variant.of(kernel, args, options)
        code = self.prepared.get(variant)
        if code is None:
            if self.prepared:
                logger.warning("a step waits for %s, which was not compiled before", variant)
            self.prepared[variant] = code = compiled(variant)
        names = kernel.arg_names[len(args) :]
        constants = [options[name] for name in names]
        launch, function, metadata = code.run, code.function, code.packed_metadata
        active = driver.active
        device = active.get_current_device()
        stream_of = active.get_current_stream

        def run(grid: tuple[int, ...], values: Sequence[Any]) -> None:
            x, y, z = (*grid, 1, 1)[:3]
            launch(x, y, z, stream_of(device), function, metadata, None, None, None, *values, *constants)

        return run


def launcher_on(gpu: Gpu, tuning: str | None) -> Launcher:
    """The launcher of a GPU, with the parameters of `tuning`, a file of `tune`'s; Triton's own where kernels are interpreted.

    Raises:
        ExecutorError: as `read_tuning`.
    """
    tuned = {} if tuning is None else read_tuning(Path(tuning), gpu)
    return Launcher(gpu, tuned) if triton.knobs.runtime.interpret else DirectLauncher(gpu, tuned)
