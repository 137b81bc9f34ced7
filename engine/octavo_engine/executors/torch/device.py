"""The choice of torch's device that runs the model, as far as this build of torch can use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo_engine.config import Device
from octavo_engine.errors import GpuUnavailableError
from octavo_engine.gpus import NO_GPU, has_gpu, newest_cuda


def device_of(promised: Device) -> torch.device:
    """The device that was promised, else a GPU where there is one.

    Raises:
        GpuUnavailableError: this build of torch can't use the GPU that was promised, or is there.
    """
    if promised == "auto":
        promised = "cuda" if torch.cuda.is_available() or has_gpu() else "cpu"
    if promised == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            "is built without CUDA"
            if built is None
            else f"is built for CUDA {built}, and the driver serves versions up to {newest_cuda()}"
        )
        raise GpuUnavailableError(
            f"{NO_GPU}torch {torch.__version__} {why}; take the image whose tag ends in -cuda, or update the driver; "
            "--device cpu runs on the CPU"
        )
    return torch.device(promised)


def moved(host: Tensor, device: torch.device) -> Tensor:
    """A host tensor on a GPU, without waiting: page-locked memory is kept until the copy is done. Else as it is."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def sent(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor sent to the device, without waiting for it."""
    return moved(torch.tensor(values, dtype=dtype), device)
