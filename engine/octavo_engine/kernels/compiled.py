"""Compiles one kernel for one GPU and reads the result: registers, shared memory, spills, copies, instructions.

Read off the compiler's own output, without a GPU. Which kernels there are is `reported_kernels`'.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass

import triton
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

from octavo_engine.kernels.assembly import bytes_in_flight, instructions_of_products
from octavo_engine.kernels.residency import SMS, GpuModel, allotted
from octavo_engine.kernels.triton.variants import Variant, compiled_for

SPILL_LIMIT = 16  # bytes a thread: a few words outside the loops cost nothing; a spilled tile costs the kernel
METRICS = ("registers a thread", "programs an SM", "bytes in flight an SM", "bytes spilled", "instructions a weight")
TENSOR_CORES = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")
MORE_IS_BETTER = {"programs an SM", "bytes in flight an SM"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel for one target. Bytes, and registers a thread."""

    name: str
    target: int
    warps: int
    registers: int
    spills: int
    shared: int
    programs: int = 0  # of the largest launch that was rehearsed
    in_flight: int | None = None  # bytes a program that its pipelined copies keep on their way; None: it has none
    instructions: float | None = None  # for each weight of a packed or float8 product
    scalar: bool = False  # its matrix products are made of scalar ones
    failure: str | None = None  # why it does not compile; it has no metrics then

    @property
    def key(self) -> str:
        return f"sm_{self.target} {self.name}"

    @property
    def resident(self) -> int:
        """Programs that an SM holds at once."""
        return SMS[self.target].resident(self.registers, self.warps, self.shared)

    def in_flight_on(self, gpu: GpuModel) -> float:
        """Bytes on their way to each SM, on average: of programs that are launched and fit."""
        return (self.in_flight or 0) * min(self.resident, self.programs / gpu.num_sms)

    def metrics(self) -> list[float]:
        """The values that may not get worse, in the order of METRICS; registers in the units that hardware allots."""
        in_flight = self.resident * (self.in_flight or 0)
        return [allotted(self.registers), self.resident, in_flight, self.spills, self.instructions or 0.0]

    def faults(self) -> list[str]:
        """The reasons why it can't run well there; empty if it can."""
        if self.failure is not None:
            return [f"{self.key} does not compile: {self.failure}"]
        found = []
        sm = SMS[self.target]
        if self.shared > sm.program_shared:
            found.append(f"{self.shared} bytes of shared memory, a program may take {sm.program_shared}")
        if self.registers * 32 * self.warps > sm.registers:
            found.append(f"{self.registers} registers on {self.warps} warps, more than an SM has")
        if self.spills > SPILL_LIMIT:
            found.append(f"{self.spills} bytes of registers spilled")
        if self.scalar:
            found.append("matrix products without tensor cores")
        return [f"{self.key}: {fault}" for fault in found]


def compile_for(target: int, name: str, variant: Variant, programs: int) -> Compiled:
    """Compile `variant` for a target. `programs` are its largest launch's."""
    try:
        made = compiled_for(target, variant)
    except Exception as error:  # noqa: BLE001 — the passes raise what they like, and not all of it can be pickled
        why = next((line for line in str(error).splitlines() if "error" in line), str(error).partition("\n")[0])
        return Compiled(name, target, 1, 0, 0, 0, programs, failure=f"{type(error).__name__}: {why}")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, sass = (_dumped(file.name, what) for what in ("--dump-resource-usage", "--dump-sass"))
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    warps, threads = made.metadata.num_warps, 32 * made.metadata.num_warps
    # Without a stack nothing was spilled; with one, only ptxas distinguishes spills from local arrays.
    spills = spilled(made.asm["ptx"], target) if stack else 0
    in_flight = bytes_in_flight(made.asm["ptx"])
    options = dict(variant.options)
    columns = options.get("BLOCK_N") or options.get("BLOCK_R", 0)  # of adapters: rows of `a`
    weights = columns * options.get("BLOCK_K", 0)
    return Compiled(
        name,
        target,
        warps,
        registers,
        spills,
        made.metadata.shared,
        programs,
        None if in_flight is None else in_flight * threads,
        instructions_of_products(sass) * threads / weights if weights else None,
        scalar="tt.dot" in made.asm["ttir"] and not TENSOR_CORES.search(made.asm["ptx"]),
    )


def _dumped(cubin: str, what: str) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, what, cubin], capture_output=True, text=True, check=True).stdout


def spilled(ptx: str, target: int) -> int:
    """Bytes of registers that ptxas stores to memory."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(target).path, "-v", f"--gpu-name={sm_arch_from_capability(target)}"]
        log = subprocess.run([*command, file.name, "-o", os.devnull], capture_output=True, text=True, check=True).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill stores", log))
