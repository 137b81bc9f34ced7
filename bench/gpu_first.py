"""The first hour with a GPU: what would be learnt first comes first, and one report has it all. `make test-gpu`,
`make bench-gpu`.

Each step is a process of its own, since a fault of a GPU ends every later call of the process that met it; the next
step goes on. The report is written after every step, so that a machine that is taken away leaves what it has shown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "gpu-report.md"
MOST_LINES = 200  # of a step's output that the report keeps: the last ones


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it is to show. A tool's exit code 5 (pytest found no test) is a failure too."""

    name: str
    command: tuple[str, ...]
    seconds: float = 900.0


def measured(part: str, *arguments: str, seconds: float = 900.0) -> tuple[tuple[str, ...], float]:
    """A part of `bench/gpu.py`."""
    return (sys.executable, "-m", "bench.gpu", part, *arguments), seconds


def tested(*arguments: str) -> tuple[str, ...]:
    """The kernels' tests, on the GPU."""
    settings = ("-c", "tests/kernels/gpu.ini", "--rootdir", "tests/kernels")
    return (sys.executable, "-m", "pytest", *settings, "--maxfail=50", *arguments)


KERNELS = "tests/kernels"
TESTS = [
    Step("the machine", *measured("machine")),
    Step("gathered logits of any vocabulary are read as they lie", tested(f"{KERNELS}/test_gathered_logits.py")),
    Step("a token after a full sequence goes nowhere", tested(f"{KERNELS}/test_kernel_arguments.py", "-k", "full")),
    Step("float8 sums on sm_90 are exact enough", tested(f"{KERNELS}/test_matmul_kernels.py", "-k", "float8")),
    Step("decodes of 1, 2, 3 and 256 requests", *measured("decodes")),
    Step("a corrupt context ends the engine with the reason", *measured("fault", seconds=300)),
    Step("the engine's tokens, with graphs and without", *measured("check")),
    Step("two layers of Llama-3-8B's width, in bfloat16 and packed", *measured("wide")),
    Step("every kernel against its twin", tested(KERNELS), 3600.0),
]
METRICS = [
    Step("the machine", *measured("machine")),
    Step("the engine's tokens, with graphs and without", *measured("check")),
    Step("two layers of Llama-3-8B's width, in bfloat16 and packed", *measured("wide")),
    Step("draws: top-k and top-p beside a plain choice", *measured("kernels", "--only", "draws")),
    Step("attention of one, 32 and 256 decodes, and its joins", *measured("kernels", "--only", "attention")),
    Step("products, packed ones among them", *measured("kernels", "--only", "products")),
    Step("each operation of a layer", *measured("kernels")),
    Step("tokens/s", *measured("rates", seconds=3600)),
]
SUITES = {"test": TESTS, "bench": METRICS}


def run(steps: Sequence[Step], report: Path) -> int:
    """Run all steps, whatever becomes of them; how many failed. The report gets a table and every step's output."""
    done: list[tuple[Step, str, float, str]] = []
    before = report.read_text("utf-8") if report.exists() else ""
    begun = time.strftime("%Y-%m-%d %H:%M:%S %z")
    for number, step in enumerate(steps, 1):
        print(f"· {number} of {len(steps)}: {step.name}", flush=True)
        start = time.monotonic()
        result, output = _run(step)
        done.append((step, result, time.monotonic() - start, output))
        print(output if result != "ok" else "\n".join(output.splitlines()[-3:]), flush=True)
        print(f"  {result}", flush=True)
        report.write_text(before + _written(begun, steps, done), "utf-8")
    failed = sum(result != "ok" for _, result, *_ in done)
    print(f"{failed} of {len(steps)} steps failed; the report is {report}")
    return failed


def _run(step: Step) -> tuple[str, str]:
    """("ok" or what went wrong, the output)."""
    process = subprocess.Popen(
        step.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT
    )
    try:
        output, _ = process.communicate(timeout=step.seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return f"not done after {step.seconds:.0f} s", output
    code = process.returncode
    return "ok" if code == 0 else f"killed by signal {-code}" if code < 0 else f"exit code {code}", output


def _written(begun: str, steps: Sequence[Step], done: list[tuple[Step, str, float, str]]) -> str:
    lines = [f"# {begun}", "", "| step | result | s |", "|-|-|--:|"]
    lines += [f"| {step.name} | {result} | {seconds:.0f} |" for step, result, seconds, _ in done]
    lines += [f"| {step.name} | not begun | |" for step in steps[len(done) :]]
    for step, result, _, output in done:
        shown = output.splitlines()[-MOST_LINES:]
        lines += ["", f"## {step.name}: {result}", "", "```", *shown, "```"]
    return "\n".join([*lines, "", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--report", type=Path, default=REPORT, help=f"default: {REPORT.name}, which grows")
    arguments = parser.parse_args()
    return 1 if run(SUITES[arguments.suite], arguments.report) else 0


if __name__ == "__main__":
    sys.exit(main())
