"""How kernels are launched: which card this is, and which block sizes, warps and stages suit it.

Owns the choice; the kernels own what the numbers mean. Nothing is tuned at a user's start: shipped defaults
(`launch_defaults`) serve, or a file that `python -m octavo_engine.kernels.tune` wrote.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from octavo_engine.errors import ExecutorError, GpuUnavailableError
from octavo_engine.gpus import NO_GPU
from octavo_engine.kernels.triton.arguments import strides_are_known
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS, Parameters
from octavo_engine.kernels.triton.variants import ALIGNED, Unspecialized, Variant, compiled, unspecialized

logger = logging.getLogger(__name__)

OLDEST = 80  # compute capability; see docs/kernels.md for what becomes of Turing
STRIDED = "{} would read a strided tensor as if it were dense"


@dataclass(frozen=True, slots=True)
class Card:
    """What of a card the launches depend on."""

    capability: int  # 80, 89, 90, 100 …
    num_sms: int

    @classmethod
    def of(cls, device: torch.device) -> Card:
        """The device's; a CPU, where Triton interprets, stands in as a small card that has every format.

        Raises:
            GpuUnavailableError: the GPU is older than the kernels are written for.
        """
        if device.type != "cuda":
            return cls(90, 4)
        properties = torch.cuda.get_device_properties(device)
        capability = 10 * properties.major + properties.minor
        if capability < OLDEST:
            raise GpuUnavailableError(
                f"{NO_GPU}{properties.name} has compute capability {properties.major}.{properties.minor}, and the "
                f"kernels need {OLDEST / 10} or newer: Triton has no tensor cores below; use a newer GPU (A100, L4, "
                "H100 …), or --device cpu"
            )
        return cls(capability, properties.multi_processor_count)

    @property
    def family(self) -> int:
        """The table that serves this card: the newest generation that isn't newer, of the same shared memory."""
        if self.capability in {86, 89} or self.capability >= 120:  # the workstation's cards: 100 KiB an SM
            return 89
        return max(c for c in DEFAULTS if c <= self.capability and c != 89)

    def require_float8(self, what: str) -> None:
        """Raises:
        ExecutorError: this GPU has no float8.
        """
        if self.capability < 89:
            raise ExecutorError(
                f"{what} needs float8 arithmetic, compute capability 8.9 or newer; "
                f"this GPU has {self.capability // 10}.{self.capability % 10}"
            )


def read_tuning(path: Path, card: Card) -> Mapping[str, Parameters]:
    """What `tune` wrote for a GPU like `card`: launch name -> parameters.

    Raises:
        ExecutorError: the file is not such a one, is for another kind of GPU, or for kernels of another version.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        capability = int(document["capability"])
        read: dict[str, Parameters] = {
            str(name): {str(k): int(v) for k, v in p.items()} for name, p in document["launches"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ExecutorError(
            f"--kernel-parameters {path} holds no launch parameters: {why}; write it with octavo_engine.kernels.tune"
        ) from error
    if capability != card.capability:
        raise ExecutorError(
            f"--kernel-parameters {path} is for compute capability {capability / 10:.1f}, and this GPU has "
            f"{card.capability / 10:.1f}; run octavo_engine.kernels.tune on it, or leave the flag out"
        )
    defaults = DEFAULTS[card.family]
    wrong = [name for name, chosen in read.items() if name not in defaults or chosen.keys() != defaults[name].keys()]
    if wrong:
        raise ExecutorError(
            f"--kernel-parameters {path} is for the kernels of another version: {', '.join(wrong)} takes other "
            "parameters here; run octavo_engine.kernels.tune again"
        )
    return read


def tuned_launcher(card: Card, tuning: str | None) -> Launcher:
    """For `card`, with the launches of `tuning`, a file of `tune`'s. Raises ExecutorError: see `read_tuning`."""
    return Launcher(card, {} if tuning is None else read_tuning(Path(tuning), card))


@dataclass(frozen=True, slots=True)
class Launcher:
    """Runs kernels on one card. `tuned` wins over the defaults, name by name.

    Triton's own launch costs the host tens of microseconds, most of them to find out which code serves it. Here that is
    found once for each combination of types, constants and fixed numbers, and kept: a launch that was met before packs
    its arguments and goes.
    """

    card: Card
    tuned: Mapping[str, Parameters] = field(default_factory=dict)
    prepared: dict[Variant, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is compiled and, on a GPU, loaded. What is met beside it stalls a step: the log names it."""
    _free: dict[Any, Unspecialized] = field(default_factory=dict, init=False, repr=False, compare=False)
    _tiles: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _met: dict[tuple[Any, ...], Callable[[tuple[int, ...], list[Any]], None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def parameters(self, name: str) -> Parameters:
        """Block sizes by their names in the kernel, num_warps and num_stages. `name` is a kernel and a shape, such as
        "prefill.128"."""
        return self.tuned.get(name) or DEFAULTS[self.card.family][name]

    def tiles(self, name: str, element_size: int) -> dict[str, int]:
        """`parameters` for elements of that many bytes: float32, which no model is served in on a card, takes half a
        tile of keys and no second stage. Not to be changed."""
        chosen = self._tiles.get((name, element_size))
        if chosen is None:
            chosen = self._tiles[name, element_size] = dict(self.parameters(name))
            if element_size == 4:
                chosen |= {"BLOCK_N": max(16, chosen["BLOCK_N"] // 2), "num_stages": 1}
        return chosen

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """Launch kernel[grid] with args by position and constants by name, unless the grid is empty."""
        if 0 in grid:
            return
        if not isinstance(kernel, JITFunction):  # interpreted
            assert strides_are_known(args), STRIDED.format(kernel.__name__)
            kernel[grid](*args, **options)
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
            self._met[tuple(key)] = run = self._bound(kernel, args, options)
        run(grid, values)

    def hold(self, codes: Mapping[Variant, Any]) -> None:
        """Load compiled kernels onto the GPU, so that their first launches need not."""
        for variant, code in codes.items():
            _ = code.run  # loads it
            self.prepared[variant] = code

    def _bound(
        self, kernel: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Callable[[tuple[int, ...], list[Any]], None]:
        """A launch of the code for such arguments: (grid, addresses and numbers in the order of `args`)."""
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

        def run(grid: tuple[int, ...], values: list[Any]) -> None:
            x, y, z = (*grid, 1, 1)[:3]
            launch(x, y, z, stream_of(device), function, metadata, None, None, None, *values, *constants)

        return run
