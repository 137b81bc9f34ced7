"""What the compiler makes of every kernel for every GPU, without one: `python -m octavo_engine.kernels.compile_report`.

Records the launches of three models' shapes, compiles each for the targets, and reads the compiler's own output:
registers, shared memory, spills, how many programs an SM holds at once, how many bytes pipelined copies keep on their
way, against what the GPUs' memory needs, and how many instructions a weight costs. Exits with 1 if a kernel can't run
well, or worse than a baseline says. What is compiled stays in Triton's cache (TRITON_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

from octavo_engine.kernels.assembly import bytes_in_flight, instructions_of_products
from octavo_engine.kernels.residency import GPUS, SMS, Gpu
from octavo_engine.kernels.shapes import launches_of
from octavo_engine.kernels.triton.launch import Card, Launcher
from octavo_engine.kernels.triton.variants import Variant, compiled_for

SPILL_LIMIT = 16  # bytes a thread: a few words outside the loops cost nothing; a spilled tile costs the kernel
NUM_SMS = {gpu.target: gpu.num_sms for gpu in GPUS}  # grids depend on it, code doesn't


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel for one target. Bytes, and registers a thread."""

    name: str
    target: int
    warps: int
    registers: int
    spills: int
    shared: int
    programs: int = 0  # of the launch that was recorded
    in_flight: int | None = None  # bytes a program that its pipelined copies keep on their way; None: it has none
    instructions: float | None = None  # for each weight of a packed or float8 product

    @property
    def key(self) -> str:
        return f"sm_{self.target} {self.name}"

    @property
    def resident(self) -> int:
        """Programs that an SM holds at once."""
        return SMS[self.target].resident(self.registers, self.warps, self.shared)

    def in_flight_on(self, gpu: Gpu) -> float:
        """Bytes on their way to each SM, on average: of programs that are launched and fit."""
        return (self.in_flight or 0) * min(self.resident, self.programs / gpu.num_sms)

    def figures(self) -> list[float]:
        """What may not get worse: programs an SM, bytes in flight a resident set, spills, instructions a weight."""
        return [self.resident, self.resident * (self.in_flight or 0), self.spills, self.instructions or 0.0]

    def faults(self) -> list[str]:
        """Why it can't run well there; empty if it can."""
        found = []
        sm = SMS[self.target]
        if self.shared > sm.program_shared:
            found.append(f"{self.shared} bytes of shared memory, a program may take {sm.program_shared}")
        if self.registers * 32 * self.warps > sm.registers:
            found.append(f"{self.registers} registers on {self.warps} warps, more than an SM has")
        if self.spills > SPILL_LIMIT:
            found.append(f"{self.spills} bytes of registers spilled")
        return [f"{self.key}: {fault}" for fault in found]


@dataclass(frozen=True, slots=True)
class Recorder(Launcher):
    """Keeps what launches would be compiled for and the first one's programs, in their order, instead of running them."""

    recorded: dict[Variant, int] = field(default_factory=dict)

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        if all(grid):
            self.recorded.setdefault(Variant.of(kernel, args, options), math.prod(grid))


def compile_for(target: int, name: str, variant: Variant, programs: int) -> Compiled:
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
        usage, sass = (_dumped(file.name, what) for what in ("--dump-resource-usage", "--dump-sass"))
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    warps, threads = made.metadata.num_warps, 32 * made.metadata.num_warps
    # Without a stack nothing was spilled; with one, only ptxas tells spills from local arrays.
    spills = spilled(made.asm["ptx"], target) if stack else 0
    in_flight = bytes_in_flight(made.asm["ptx"])
    options = dict(variant.options)
    weights = options["BLOCK_N"] * options["BLOCK_K"] if "BLOCK_K" in options else 0
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


def compile_all(targets: list[int], workers: int, only: str = "") -> Iterator[Compiled]:
    """Every kernel for every target, kernel by kernel; `only` those in whose key this pattern is found."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = []
        for target in targets:
            recorder = Recorder(Card(target, NUM_SMS[target]))
            for shape, launch in launches_of(recorder):
                before = len(recorder.recorded)
                launch()
                for variant in list(recorder.recorded)[before:]:
                    name = f"{variant.name.removesuffix('_kernel')} {shape}".strip()
                    if not re.search(only, f"sm_{target} {name}"):
                        continue
                    waiting.append(pool.submit(compile_for, target, name, variant, recorder.recorded[variant]))
        for future in waiting:
            yield future.result()


def table(title: str, columns: dict[str, int], compiled: list[Compiled], cell: Callable[[Compiled, str], str]) -> str:
    """Markdown: a row a kernel and shape, a column each of `columns`, of what is compiled for its target."""
    rows: dict[str, dict[int, Compiled]] = {}
    for c in compiled:
        rows.setdefault(c.name, {})[c.target] = c
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|-" * (len(columns) + 1) + "|"]
    for name, by in rows.items():
        cells = (cell(by[target], column) if target in by else "–" for column, target in columns.items())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(compiled: list[Compiled]) -> str:
    """What fits, what is on its way, and what a weight costs."""
    targets = {f"sm_{t}": t for t in sorted({c.target for c in compiled})}
    gpus = {gpu.name: gpu for gpu in GPUS if gpu.target in targets.values()}

    def size(c: Compiled, _: str) -> str:
        spill = f" spill {c.spills}" if c.spills else ""
        return f"{c.registers}×{c.warps}w {c.shared / 1024:.0f}K ·{c.resident}{spill}"

    def flight(c: Compiled, column: str) -> str:
        return f"{c.in_flight_on(gpus[column]) / 1024:.0f}"

    def cost(c: Compiled, _: str) -> str:
        return f"{c.instructions:.1f}"

    needs = ", ".join(f"{gpu.name} {gpu.bytes_in_flight / 1024:.0f}" for gpu in gpus.values())
    copying = [c for c in compiled if c.in_flight is not None]
    products = [c for c in compiled if c.instructions is not None]
    return "\n\n".join(
        [
            "registers × warps, shared memory, programs an SM:",
            table("kernel", targets, compiled, size),
            f"KiB on their way to an SM while it computes; what keeps the memory busy: {needs}:",
            table("pipelined", {name: gpu.target for name, gpu in gpus.items()}, copying, flight),
            "instructions a weight:",
            table("product", targets, products, cost),
        ]
    )


FIGURES = ("programs an SM", "bytes in flight an SM", "bytes spilled", "instructions a weight")


def regressions(compiled: list[Compiled], baseline: Mapping[str, Any]) -> list[str]:
    """What is worse than the baseline has it, or missing; empty if nothing. What it doesn't name has no limit yet."""
    renew = "renew the baseline: make kernels-baseline"
    if baseline["triton"] != triton.__version__:
        return [f"the baseline is of Triton {baseline['triton']}, this is {triton.__version__}; {renew}"]
    targets = {c.target for c in compiled}
    made = {c.key: c.figures() for c in compiled}
    found = []
    for key, figures in baseline["kernels"].items():
        if int(key.split()[0].removeprefix("sm_")) not in targets:
            continue
        if key not in made:
            found.append(f"{key}: in the baseline, and not compiled any more; {renew}")
            continue
        for i, (name, now, before) in enumerate(zip(FIGURES, made[key], figures, strict=True)):
            if (now < before - 0.01) if i < 2 else (now > before + 0.01):
                found.append(f"{key}: {name} {before:g} → {now:g}; if that is meant, {renew}")
    return found


def write_baseline(path: Path, compiled: list[Compiled]) -> None:
    """One kernel a line."""
    kernels = {c.key: [round(x, 2) for x in c.figures()] for c in compiled}
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(kernels[key])}" for key in sorted(kernels))
    path.write_text(f'{{"triton": "{triton.__version__}", "kernels": {{\n{lines}\n}}}}\n', "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", type=int, action="append", choices=sorted(NUM_SMS), help="default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", metavar="PATTERN", help="such as '(decode|prefill) llama'; default: all")
    parser.add_argument("--baseline", type=Path, help="a file whose figures may not get worse")
    parser.add_argument("--write-baseline", type=Path, help="the file to write this report's figures to")
    arguments = parser.parse_args()
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: kernels are interpreted, not compiled; unset it")
    compiled = []
    for made in compile_all(arguments.target or sorted(NUM_SMS), arguments.workers, arguments.only):
        print(f"· sm_{made.target} {made.name}", file=sys.stderr)  # noqa: T201
        compiled.append(made)
    faults = [fault for c in compiled for fault in c.faults()]
    if arguments.baseline:
        faults += regressions(compiled, json.loads(arguments.baseline.read_text("utf-8")))
    if arguments.write_baseline:
        write_baseline(arguments.write_baseline, compiled)
    print(tables(compiled))  # noqa: T201
    print(f"\n{len(compiled)} kernels compiled, Triton {triton.__version__}")  # noqa: T201
    print("\n".join(faults), file=sys.stderr)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("compile_report", main))
