"""How kernels are launched: which card this is, and which block sizes, warps and stages suit it.

Owns the choice; the kernels own what the numbers mean. Nothing is tuned at a user's start: shipped defaults
(`launch_defaults`) serve, or a file that `python -m octavo_engine.kernels.tune` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from octavo_engine.errors import ExecutorError, GpuUnavailableError
from octavo_engine.gpus import NO_GPU
from octavo_engine.kernels.triton.arguments import strides_are_known
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS, Parameters


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
        if capability < 80:
            raise GpuUnavailableError(
                f"{NO_GPU}{properties.name} has compute capability {properties.major}.{properties.minor}, and the "
                "kernels need 8.0 or newer; use a newer GPU (A100, L4, H100 …), or --device cpu"
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


def read_tuning(path: Path) -> dict[str, Parameters]:
    """What `tune` wrote: launch name -> parameters.

    Raises:
        ExecutorError: the file is not such a one.
    """
    try:
        read = json.loads(path.read_text("utf-8"))["launches"]
        return {str(name): {str(k): int(v) for k, v in chosen.items()} for name, chosen in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExecutorError(
            f"{path} holds no launch parameters: {error}; write it with octavo_engine.kernels.tune"
        ) from error


@dataclass(frozen=True, slots=True)
class Launcher:
    """Runs kernels on one card. `tuned` wins over the defaults, name by name."""

    card: Card
    tuned: Mapping[str, Parameters] = field(default_factory=dict)

    def parameters(self, name: str) -> Parameters:
        """Block sizes by their names in the kernel, num_warps and num_stages. `name` is a kernel and a shape, such as
        "prefill.128"."""
        return self.tuned.get(name) or DEFAULTS[self.card.family][name]

    def tiles(self, name: str, element_size: int) -> dict[str, int]:
        """`parameters` for elements of that many bytes: float32, which no model is served in on a card, takes half a
        tile of keys and no second stage."""
        chosen = dict(self.parameters(name))
        if element_size == 4:
            chosen |= {"BLOCK_N": max(16, chosen["BLOCK_N"] // 2), "num_stages": 1}
        return chosen

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """kernel[grid](*args, **options), unless the grid is empty."""
        if all(grid):
            assert strides_are_known(args), f"{kernel.__name__} would read a strided tensor as if it were dense"
            # Said because Triton 3.10 changes what it does unsaid.
            kernel[grid](*args, **options, enable_fp_fusion=True)
