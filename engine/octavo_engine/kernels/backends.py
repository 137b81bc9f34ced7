"""Chooses the implementation of `operations.Operations` for a device. Triton is imported only where it is chosen."""

from __future__ import annotations

import torch

from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.reference_operations import ReferenceOperations


def operations_on(device: torch.device, tuning: str | None = None) -> Operations:
    """Triton's kernels on a GPU, plain torch on a CPU. `tuning`: a file that `octavo_engine.kernels.tune` wrote.

    Raises:
        ExecutorError: the GPU is too old, or the file is none.
    """
    if device.type == "cpu":
        return ReferenceOperations()
    return triton_operations_on(device, tuning)


def triton_operations_on(device: torch.device, tuning: str | None = None) -> Operations:
    """Triton's kernels, on a CPU too: there its interpreter runs them, if TRITON_INTERPRET was set before its import.

    Raises:
        ExecutorError: the GPU is too old, or the file is none.
    """
    from octavo_engine.kernels.triton.operations import TritonOperations  # noqa: PLC0415

    if device.type == "cpu":
        from octavo_engine.kernels.triton.interpreter import correct_interpreter  # noqa: PLC0415

        correct_interpreter()
    return TritonOperations.on(device, tuning)
