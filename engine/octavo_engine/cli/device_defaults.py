"""Defaults that depend on the device: limits and the share of memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import get_args

from octavo_engine.config import Device
from octavo_engine.errors import ConfigError
from octavo_engine.gpus import has_gpu

DEVICES: tuple[Device, ...] = get_args(Device)
VARIABLE = "OCTAVO_DEVICE"


@dataclass(frozen=True, slots=True)
class DeviceDefaults:
    """Fields are flags of `octavo serve`."""

    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float  # on a CPU: of the container's memory


ON_GPU = DeviceDefaults(max_num_seqs=256, max_num_batched_tokens=8192, gpu_memory_utilization=0.9)
ON_CPU = DeviceDefaults(max_num_seqs=128, max_num_batched_tokens=2048, gpu_memory_utilization=0.92)


def chosen_device(flag: Device | None, executor: str | None) -> Device:
    """The device that the command line or the environment names, or auto.

    The environment's is the image's promise, which `--executor native` takes back.

    Raises:
        ConfigError: the variable names no device, or the two flags contradict each other.
    """
    if flag == "cuda" and executor == "native":
        raise ConfigError("--executor native runs on the CPU, and --device is cuda: leave one of them out")
    return flag or ("cpu" if executor == "native" else _of_environment())


def defaults_for(device: Device, executor: str | None) -> DeviceDefaults:
    """The defaults of the device that will run the model."""
    if device == "auto":
        device = "cuda" if executor != "native" and has_gpu() else "cpu"
    return ON_GPU if device == "cuda" else ON_CPU


def by_device(field: str) -> str:
    """Return the default of one flag, for its line in --help."""
    return f"default: {getattr(ON_GPU, field)} on a GPU, {getattr(ON_CPU, field)} on a CPU"


def used_here() -> str:
    """The defaults as they are on this machine, for the end of --help."""
    defaults = defaults_for(_of_environment(), None)
    values = (f"--{f.name.replace('_', '-')} {getattr(defaults, f.name)}" for f in fields(defaults))
    return f"Without flags, here: {'a GPU' if defaults is ON_GPU else 'the CPU'}, {', '.join(values)}."


def _of_environment() -> Device:
    named = os.environ.get(VARIABLE) or "auto"
    for device in DEVICES:
        if named == device:
            return device
    raise ConfigError(f"{VARIABLE} is {named!r}; set it to one of {', '.join(DEVICES)}")
