"""Reports how each kernel compiles for every GPU, without one: `python -m octavo_engine.cli.kernels_report`.

Compiles for each target all that its engines would launch, and reads the compiler's own output: registers, shared
memory, spills, how many programs an SM holds at once, how many bytes pipelined copies keep on their way, against what
the GPUs' memory needs, and how many instructions a weight costs. Exits with 1 if a kernel can't run well, or worse than
a baseline says. What is compiled stays in Triton's cache (TRITON_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton

from octavo_engine.executors.torch.reported_kernels import reported_kernels
from octavo_engine.kernels.compiled import METRICS, MORE_IS_BETTER, Compiled, compile_for
from octavo_engine.kernels.residency import GPUS, NUM_SMS
from octavo_engine.kernels.triton.launch import OLDEST, Gpu

RENEW = "renew the baseline: make kernels-baseline"


def compile_all(targets: list[int], workers: int, only: str = "") -> Iterator[Compiled]:
    """Every kernel for every target, kernel by kernel; `only` those in whose key this pattern is found."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(compile_for, target, kernel.name, kernel.variant, kernel.programs)
            for target in targets
            for kernel in reported_kernels(Gpu(target, NUM_SMS[target]))
            if re.search(only, f"sm_{target} {kernel.name}")
        ]
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
    """Tables of the programs that fit an SM, the bytes on their way, and the instructions that a weight costs."""
    targets = {f"sm_{t}": t for t in sorted({c.target for c in compiled})}
    gpus = {gpu.name: gpu for gpu in GPUS if gpu.target in targets.values()}

    def size(c: Compiled, _: str) -> str:
        if c.failure is not None:
            return "does not compile"
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


def regressions(compiled: list[Compiled], baseline: Mapping[str, Any], only: str = "") -> list[str]:
    """Each value that is worse than in the baseline, or is in one of both alone; empty if there is none."""
    if baseline["triton"] != triton.__version__:
        return [f"the baseline is of Triton {baseline['triton']}, this is {triton.__version__}; {RENEW}"]
    targets = {f"sm_{c.target}" for c in compiled}
    made = {c.key: c.metrics() for c in compiled}
    known: dict[str, list[float]] = {
        key: metrics
        for key, metrics in baseline["kernels"].items()
        if key.partition(" ")[0] in targets and re.search(only, key)
    }
    found = [f"{key}: in the baseline, and not compiled any more; {RENEW}" for key in known.keys() - made.keys()]
    found += [f"{key}: not in the baseline; {RENEW}" for key in made.keys() - known.keys()]
    for key in made.keys() & known.keys():
        for name, now, before in zip(METRICS, made[key], known[key], strict=True):
            if (now < before - 0.01) if name in MORE_IS_BETTER else (now > before + 0.01):
                found.append(f"{key}: {name} {before:g} → {now:g}; if that is meant, {RENEW}")
    return sorted(found)


def refusals(compiled: list[Compiled]) -> list[str]:
    """The reasons why older GPUs are refused, a line for each."""
    lines = []
    for target in sorted({c.target for c in compiled if c.target < OLDEST}):
        made = [c for c in compiled if c.target == target]
        bad = [c for c in made if c.faults()]
        failed, scalar = sum(c.failure is not None for c in made), sum(c.scalar for c in made)
        most = max(c.spills for c in made)
        lines.append(
            f"refused: sm_{target}: {len(bad)} of {len(made)} kernels can't run well there; {failed} do not compile, "
            f"{scalar} make matrix products without tensor cores, and up to {most} bytes of registers are spilled"
        )
    return lines


def write_baseline(path: Path, compiled: list[Compiled]) -> None:
    """One kernel a line."""
    kernels = {c.key: [round(x, 2) for x in c.metrics()] for c in compiled}
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(kernels[key])}" for key in sorted(kernels))
    head = f'{{"triton": "{triton.__version__}", "metrics": {json.dumps(METRICS)}, "kernels": {{'
    path.write_text(f"{head}\n{lines}\n}}}}\n", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", type=int, action="append", choices=sorted(NUM_SMS), help="default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", metavar="PATTERN", help="such as '(decode|prefill) llama'; default: all")
    parser.add_argument("--baseline", type=Path, help="a file whose metrics may not get worse")
    parser.add_argument("--write-baseline", type=Path, help="the file to write this report's metrics to")
    arguments = parser.parse_args()
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: kernels are interpreted, not compiled; unset it")
    compiled = []
    for made in compile_all(arguments.target or sorted(NUM_SMS), arguments.workers, arguments.only):
        print(f"· sm_{made.target} {made.name}", file=sys.stderr)  # noqa: T201
        compiled.append(made)
    served = [c for c in compiled if c.target >= OLDEST]
    faults = [fault for c in served for fault in c.faults()]
    if arguments.baseline:
        faults += regressions(served, json.loads(arguments.baseline.read_text("utf-8")), arguments.only)
    if arguments.write_baseline:
        write_baseline(arguments.write_baseline, served)
    print("\n\n".join([tables(compiled), *refusals(compiled)]))  # noqa: T201
    print(f"\n{len(compiled)} kernels compiled, Triton {triton.__version__}")  # noqa: T201
    print("\n".join(faults), file=sys.stderr)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("kernels_report", main))
