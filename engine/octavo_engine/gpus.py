"""The GPUs that the NVIDIA driver shows this process, asked without torch, whose import takes seconds.

Owns the one sentence with which a start ends where a GPU was promised, or is there, and can't be used: `NO_GPU` begins it, and the
operator classifies the end of a pod by it (octavo_operator.reconcile.diagnosis.pods).
"""

from __future__ import annotations

import ctypes
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from octavo_engine.errors import GpuUnavailableError

NO_GPU = "no usable GPU: "
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
DEVICE_FILES = Path("/dev")
NEEDED = {"torch": (2, 11), "triton": (3, 6)}  # the oldest versions; pyproject.toml's extra `cuda` has the same
PROVIDE_ONE = (
    "on Kubernetes see that the pod has nvidia.com/gpu among its limits and that the node runs the NVIDIA driver and "
    "container toolkit (the GPU Operator installs both); with docker pass --gpus all; --device cpu runs on the CPU"
)


def has_gpu() -> bool:
    """True if this process can see a GPU."""
    found = _count()
    return isinstance(found, int) and found > 0


def require_gpus(ranks: int) -> None:
    """Ensure that each of this machine's `ranks` can have a GPU, and that torch and Triton are there to use it.

    Raises:
        GpuUnavailableError: no driver, fewer GPUs than ranks, or torch or Triton is missing or too old.
    """
    found = _count()
    if isinstance(found, str):
        raise GpuUnavailableError(f"{NO_GPU}{found}; {PROVIDE_ONE}")
    if found < ranks:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        limited = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        needed = "one is" if ranks == 1 else f"{ranks} are"
        raise GpuUnavailableError(
            f"{NO_GPU}the driver shows {found or 'none'}{limited} and {needed} needed; {PROVIDE_ONE}"
        )
    _require_libraries()


def require_usable_gpus() -> None:
    """Ensure that GPUs that this process is given can be used. Without any, nothing is required.

    A start that was promised no device would otherwise serve on the CPU, ready and slow.

    Raises:
        GpuUnavailableError: there are GPUs, and their driver does not start, or torch or Triton is missing or too old.
    """
    found = _count()
    if isinstance(found, str) and any(DEVICE_FILES.glob("nvidia[0-9]*")):
        raise GpuUnavailableError(
            f"{NO_GPU}there are GPUs, and {found}; see that nvidia-smi runs here, and on machines with NVSwitch the "
            "fabric manager; --device cpu runs on the CPU"
        )
    if isinstance(found, int) and found:
        _require_libraries()


def _require_libraries() -> None:
    found = {name: _installed(name) for name in NEEDED}
    if all(here is not None and _release(here) >= NEEDED[name] for name, here in found.items()):
        return
    needed = " and ".join(f"{name} {'.'.join(map(str, least))} or newer" for name, least in NEEDED.items())
    here = " and ".join(f"no {name}" if v is None else f"{name} {v}" for name, v in found.items())
    raise GpuUnavailableError(
        f"{NO_GPU}it takes {needed}, and there is {here}; take the image whose tag ends in -cuda, or pip install torch "
        "triton; --device cpu runs on the CPU"
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """(2, 11) of 2.11.0+cu130, such that versions compare."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def newest_cuda() -> str:
    """The newest version of CUDA that the driver serves, such as 12.4."""
    version = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _count() -> int | str:
    """The number of GPUs, or why the driver can't be asked, as half a sentence."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver's library, libcuda.so.1, is not visible to this process"
    if (status := driver.cuInit(0)) not in {0, NO_DEVICE}:
        return f"the NVIDIA driver does not start (cuInit returns {status})"
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value
