"""Measures the limits of this machine by the native kernels: bytes read and multiply-adds done each second."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from octavo_engine.executors.native import _native as native

FMA, BF16, INT8 = range(3)


@dataclass(frozen=True)
class Roofline:
    """Bytes/s of reading far more than the caches hold; operations/s (two a multiply-add) of each kind."""

    bandwidth: float
    f32_flops: float
    bf16_flops: float
    int8_ops: float

    def describe(self) -> str:
        return (
            f"reads {self.bandwidth / 1e9:.1f} GB/s; {self.f32_flops / 1e12:.2f} TFLOP/s in f32, "
            f"{self.bf16_flops / 1e12:.2f} in bf16, {self.int8_ops / 1e12:.2f} TOP/s in int8"
        )


def measure_roofline(threads: int | None = None) -> Roofline:
    """The best of three: a disturbed machine only ever reads low."""
    threads = threads or len(os.sched_getaffinity(0))

    def peak(kind: int) -> float:
        return max(2.0 * native.measure_peak(kind, threads) for _ in range(3))

    bandwidth = max(float(native.measure_bandwidth(256 << 20, threads, 30)) for _ in range(3))
    return Roofline(bandwidth, peak(FMA), peak(BF16), peak(INT8))


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
