"""Measures the limits of a device: bytes moved and multiply-adds done each second, and how long a call takes on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes/s of a copy far larger than the caches, read and written; FLOP/s of a large square matrix product."""

    name: str
    bandwidth: float
    flops: float

    def describe(self) -> str:
        return f"{self.name}: moves {self.bandwidth / 1e9:.0f} GB/s, {self.flops / 1e12:.1f} TFLOP/s in bfloat16"

    def share(self, num_bytes: float, num_flops: float, seconds: float) -> float:
        """The share of what the tighter of the two limits would allow."""
        return max(num_bytes / self.bandwidth, num_flops / self.flops) / seconds


def seconds_of(call: Callable[[], object], device: torch.device, *, repeats: int = 20, flush: int = 0) -> float:
    """Median seconds of one call on the device, launches hidden as far as they can be.

    `flush` bytes are written before each call, so that it finds nothing of its own in the caches.
    """
    call()
    cold = torch.empty(max(1, flush), dtype=torch.uint8, device=device)
    if device.type != "cuda":
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        return sorted(taken)[repeats // 2]
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start_mark, end_mark in marks:
        cold.zero_()
        start_mark.record()
        call()
        end_mark.record()
    torch.cuda.synchronize(device)
    return sorted(start_mark.elapsed_time(end_mark) / 1e3 for start_mark, end_mark in marks)[repeats // 2]


def measure_limits(device: torch.device, *, copy_bytes: int = 1 << 31, side: int = 8192) -> Limits:
    """The best of several: a disturbed device only ever reads low."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = min(seconds_of(lambda: target.copy_(source), device, repeats=5) for _ in range(3))
    a = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    multiplying = min(seconds_of(lambda: a @ a, device, repeats=5) for _ in range(3))
    return Limits(name, 2 * copy_bytes / copying, 2 * side**3 / multiplying)
