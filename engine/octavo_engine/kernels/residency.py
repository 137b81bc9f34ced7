"""The limits of a GPU: programs resident on an SM, and bytes that must be on their way to keep its memory busy.

Pure arithmetic on published limits; independent of Triton. Limits of an SM: CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability". Bandwidths: NVIDIA's datasheets of A100 80GB SXM, L4, H100 SXM, H200 SXM and
HGX B200 (64 TB/s for eight). By Little's law a busy memory has latency · bandwidth bytes on their way. What that is for
each SM under full load is stated by NVIDIA's CCCL (cub/device/dispatch/tuning/tuning_transform.cuh: 16 KiB on A100, 32
on H100, 48 on H200, 64 on B200), which makes the latency 0.9 to 1.4 µs. L4 has no value there: it takes A100's latency.
"""

from __future__ import annotations

from dataclasses import dataclass


def allotted(registers: int) -> int:
    """Registers a thread that hardware sets aside for as many: units of 256 a warp, eight a thread."""
    return max(-(-registers // 8) * 8, 8)


@dataclass(frozen=True, slots=True)
class Sm:
    """Limits of one streaming multiprocessor. Bytes, and registers of four bytes."""

    warps: int
    programs: int
    shared: int
    program_shared: int  # what one program may take
    registers: int = 64 << 10

    def resident(self, registers: int, warps: int, shared: int) -> int:
        """Programs at once, each of `warps` warps, `registers` a thread and `shared` bytes; 0 if none fits.

        1 KiB of shared memory a program is the system's.
        """
        if shared > self.program_shared:
            return 0
        by_registers = self.registers // (32 * allotted(registers)) // warps
        by_shared = self.shared // (-(-shared // 128) * 128 + 1024)
        return min(self.programs, self.warps // warps, by_registers, by_shared)


SMS = {
    75: Sm(32, 16, 64 << 10, 64 << 10),
    80: Sm(64, 32, 164 << 10, 163 << 10),
    89: Sm(48, 24, 100 << 10, 99 << 10),
    90: Sm(64, 32, 228 << 10, 227 << 10),
    100: Sm(64, 32, 228 << 10, 227 << 10),
}


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model of GPU, and its memory."""

    name: str
    target: int
    num_sms: int
    bandwidth: float  # bytes a second
    bytes_in_flight: float  # what each SM has to have on its way for the memory to be busy

    @property
    def latency(self) -> float:
        """Seconds from a load to its data under full load: Little's law."""
        return self.bytes_in_flight * self.num_sms / self.bandwidth


A100 = GpuModel("A100", 80, 108, 2039e9, 16 << 10)
GPUS = (
    A100,
    GpuModel("L4", 89, 58, 300e9, A100.latency * 300e9 / 58),
    GpuModel("H100", 90, 132, 3352e9, 32 << 10),
    GpuModel("H200", 90, 132, 4800e9, 48 << 10),
    GpuModel("B200", 100, 148, 8000e9, 64 << 10),
)
NUM_SMS = {75: 40, **{gpu.target: gpu.num_sms for gpu in GPUS}}  # of T4 and these; grids depend on it, code doesn't
