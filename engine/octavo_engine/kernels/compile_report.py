"""What the compiler makes of every kernel for every card, without a card: `python -m octavo_engine.kernels.compile_report`.

Records the launches of three models' shapes, compiles each for the targets, and reads registers, shared memory and
spills from the compiler's own output. Exits with 1 if a kernel can't run well: too much shared memory, too many
registers, or more than a few of them spilled to memory. What is compiled stays in Triton's cache (TRITON_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

from octavo_engine.kernels.shapes import launches_of
from octavo_engine.kernels.triton.launch import Card, Launcher
from octavo_engine.kernels.triton.variants import Variant, compiled_for

# Shared memory that one program may take, in bytes: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability".
SHARED_LIMITS = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}
REGISTERS = 64 << 10  # an SM's, and so a program's
SPILL_LIMIT = 16  # bytes a thread: a few words outside the loops cost nothing; a spilled tile costs the kernel
NUM_SMS = {80: 108, 89: 58, 90: 132, 100: 148}  # A100, L4, H100, B200: grids depend on it, code doesn't


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel for one target. Bytes, and registers a thread."""

    name: str
    target: int
    warps: int
    registers: int
    spills: int
    shared: int

    def faults(self) -> list[str]:
        """Why it can't run well there; empty if it can."""
        found = []
        if self.shared > SHARED_LIMITS[self.target]:
            found.append(f"{self.shared} bytes of shared memory, a program may take {SHARED_LIMITS[self.target]}")
        if self.registers * 32 * self.warps > REGISTERS:
            found.append(f"{self.registers} registers on {self.warps} warps, more than an SM has")
        if self.spills > SPILL_LIMIT:
            found.append(f"{self.spills} bytes of registers spilled")
        return [f"sm_{self.target} {self.name}: {fault}" for fault in found]


@dataclass(frozen=True, slots=True)
class Recorder(Launcher):
    """Keeps what launches would be compiled for, in their order, instead of running them."""

    recorded: dict[Variant, None] = field(default_factory=dict)

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        if all(grid):
            self.recorded.setdefault(Variant.of(kernel, args, options))


def compile_for(target: int, name: str, variant: Variant) -> Compiled:
    """Raises:
    RuntimeError: it can't be compiled; the cause is Triton's.
    """
    try:
        made = compiled_for(target, variant)
    except Exception as error:  # noqa: BLE001 — the passes raise what they like, and not all of it can be pickled
        raise RuntimeError(f"sm_{target} {name} does not compile: {type(error).__name__}: {error}") from None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    # Without a stack nothing was spilled; with one, only ptxas tells spills from local arrays.
    spills = spilled(made.asm["ptx"], target) if stack else 0
    return Compiled(name, target, made.metadata.num_warps, registers, spills, made.metadata.shared)


def spilled(ptx: str, target: int) -> int:
    """Bytes of registers that ptxas stores to memory."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(target).path, "-v", f"--gpu-name={sm_arch_from_capability(target)}"]
        log = subprocess.run([*command, file.name, "-o", os.devnull], capture_output=True, text=True, check=True).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill stores", log))


def compile_all(targets: list[int], workers: int) -> Iterator[Compiled]:
    """Every kernel for every target, kernel by kernel."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = []
        for target in targets:
            recorder = Recorder(Card(target, NUM_SMS[target]))
            for shape, launch in launches_of(recorder):
                before = len(recorder.recorded)
                launch()
                for variant in list(recorder.recorded)[before:]:
                    name = f"{variant.name.removesuffix('_kernel')} {shape}".strip()
                    waiting.append(pool.submit(compile_for, target, name, variant))
        for future in waiting:
            yield future.result()


def table(compiled: list[Compiled]) -> str:
    """Markdown: a row a kernel and shape, a column a target: registers × warps, shared KiB, spilled bytes if any."""
    targets = sorted({c.target for c in compiled})
    rows: dict[str, dict[int, Compiled]] = {}
    for c in compiled:
        rows.setdefault(c.name, {})[c.target] = c

    def cell(c: Compiled | None) -> str:
        if c is None:
            return "–"
        return f"{c.registers}×{c.warps}w {c.shared / 1024:.0f}K" + (f" spill {c.spills}" if c.spills else "")

    lines = ["| kernel | " + " | ".join(f"sm_{t}" for t in targets) + " |", "|-" * (len(targets) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cell(by.get(t)) for t in targets) + " |" for name, by in rows.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", type=int, action="append", choices=sorted(SHARED_LIMITS), help="default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: kernels are interpreted, not compiled; unset it")
    compiled = []
    for made in compile_all(arguments.target or sorted(SHARED_LIMITS), arguments.workers):
        print(f"· sm_{made.target} {made.name}", file=sys.stderr)  # noqa: T201
        compiled.append(made)
    faults = [fault for c in compiled for fault in c.faults()]
    print(table(compiled))  # noqa: T201
    print(f"\n{len(compiled)} kernels compiled, Triton {triton.__version__}")  # noqa: T201
    print("\n".join(faults), file=sys.stderr)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("compile_report", main))
