"""Launches of kernels: the kind of GPU, and the block sizes, warps and stages that suit it.

Owns the choice; the kernels own what the numbers mean. Nothing is tuned at a user's start: shipped defaults
(`launch_defaults`) serve, or a file that `python -m octavo_engine.kernels.tune` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octavo_engine.errors import ExecutorError, GpuUnavailableError
from octavo_engine.gpus import NO_GPU
from octavo_engine.kernels.triton.arguments import strides_are_known
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS, Parameters

OLDEST = 80  # compute capability; see docs/kernels.md for what becomes of Turing
STRIDED = "{} would read a strided tensor as if it were dense"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The properties of a GPU that launches depend on."""

    capability: int  # 80, 89, 90, 100 …
    num_sms: int

    @classmethod
    def of(cls, device: torch.device) -> Gpu:
        """The properties of a device; a CPU, where Triton interprets, stands in as a small GPU that has every format.

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
        """The table that serves this GPU: the newest generation that isn't newer, of the same shared memory."""
        if self.capability in {86, 89} or self.capability >= 120:  # the workstation's GPUs: 100 KiB an SM
            return 89
        return max(c for c in DEFAULTS if c <= self.capability and c != 89)

    def require_float8(self, what: str) -> None:
        """Refuse `what` on a GPU without float8.

        Raises:
            ExecutorError: this GPU has none.
        """
        if self.capability < 89:
            raise ExecutorError(
                f"{what} needs float8 arithmetic, compute capability 8.9 or newer; "
                f"this GPU has {self.capability // 10}.{self.capability % 10}"
            )


def read_tuning(path: Path, gpu: Gpu) -> Mapping[str, Parameters]:
    """Read what `tune` wrote for a GPU of that capability: launch name -> parameters.

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
    if capability != gpu.capability:
        raise ExecutorError(
            f"--kernel-parameters {path} is for compute capability {capability / 10:.1f}, and this GPU has "
            f"{gpu.capability / 10:.1f}; run octavo_engine.kernels.tune on it, or leave the flag out"
        )
    defaults = DEFAULTS[gpu.family]
    wrong = [name for name, chosen in read.items() if name not in defaults or chosen.keys() != defaults[name].keys()]
    if wrong:
        raise ExecutorError(
            f"--kernel-parameters {path} is for the kernels of another version: {', '.join(wrong)} takes other "
            "parameters here; run octavo_engine.kernels.tune again"
        )
    return read


# (grid, the tensors and numbers that change): one kernel's launch, of which all else is settled.
BoundLaunch = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Launcher:
    """Runs kernels on one GPU, by Triton's own launch. `tuned` wins over the defaults, name by name."""

    gpu: Gpu
    tuned: Mapping[str, Parameters] = field(default_factory=dict)
    bound: dict[tuple[Any, ...], BoundLaunch] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Launches that come again, by all that their operations have checked of the arguments."""
    _tiles: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def parameters(self, name: str) -> Parameters:
        """Block sizes by their names in the kernel, num_warps and num_stages. `name` is a kernel and a shape, such as
        "prefill.128"."""
        return self.tuned.get(name) or DEFAULTS[self.gpu.family][name]

    def tiles(self, name: str, element_size: int) -> dict[str, int]:
        """`parameters` for elements of that many bytes: float32, which no model is served in on a GPU, takes half a
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
        assert strides_are_known(args), STRIDED.format(kernel.__name__)
        kernel[grid](*args, **options)

    def bind(
        self,
        kernel: Any,
        args: Sequence[Any],
        changing: Sequence[int],
        apart: Collection[int] = (),
        **options: Any,
    ) -> BoundLaunch:
        """A launch that comes again: (grid, *what stands at the positions `changing` of `args`) -> None.

        That is of the same types each time, and None where it is None now. Tensors are asserted to be dense, but for
        those at the positions `apart`, whose strides the caller compares.
        """
        settled = [None if i in changing else arg for i, arg in enumerate(args)]  # tensors of one call live no longer

        def launch(grid: tuple[int, ...], *changed: Any) -> None:
            now = settled.copy()
            for i, arg in zip(changing, changed, strict=True):
                dense = i in apart or not isinstance(arg, Tensor) or arg.is_contiguous()
                assert dense, STRIDED.format(kernel.__name__)
                now[i] = arg
            self(kernel, grid, *now, **options)

        return launch
