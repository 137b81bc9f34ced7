"""The NVIDIA GPUs of this machine, and which replica has which."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from importlib.util import find_spec

from octavo_operator.errors import LocalError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def usable_gpus() -> tuple[str, ...]:
    """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES has them. None without torch, which the engine needs there."""
    if find_spec("torch") is None:
        return ()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    named = os.environ.get(VISIBLE)
    names = named.split(",") if named else [str(i) for i in range(count.value)]
    return tuple(names[: count.value])  # the driver counts those that the variable lets it see


def divide_gpus(gpus: Sequence[str], replicas: int, each: int) -> list[dict[str, str]]:
    """Each replica's part, as environment variables; a replica without GPUs sees none of them.

    Raises:
        LocalError: there are too few.
    """
    if replicas * each > len(gpus):
        fitting = len(gpus) // each
        raise LocalError(
            f"{replicas} replicas of {each} NVIDIA GPU{'s' if each > 1 else ''} need {replicas * each}, and this "
            f"machine has {len(gpus)}; --replicas {fitting} fits"
        )
    return [{VISIBLE: ",".join(gpus[i * each : (i + 1) * each])} for i in range(replicas)]
