"""`make kernels-report`: every kernel compiles for every GPU within its limits, and none gets worse unnoticed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import triton

from octavo_engine.cli import kernels_report
from octavo_engine.cli.kernels_report import refusals, regressions
from octavo_engine.kernels.compiled import Compiled

BASELINE = Path(__file__).parents[1] / "kernels/compiled.json"


# The report of one model alone: to find what engines launch takes a second or more for each.
SAMPLE = """
import sys
from octavo_engine.cli import kernels_report
from octavo_engine.executors.torch import reported_kernels

engines = [engine for engine in reported_kernels.reported_engines() if engine[0] == "smollm2"]
reported_kernels.reported_engines = lambda: engines
sys.exit(kernels_report.main())
"""


def report(*arguments: str, run: Sequence[str] = ("-m", "octavo_engine.cli.kernels_report"), baseline: Path = BASELINE):
    """The report of a fresh interpreter, where kernels are compiled. Compiled ones stay in a cache outside the tree."""
    cache = Path.home() / ".cache/octavo" / f"triton-{importlib.metadata.version('triton')}"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": os.fspath(cache),
        "PYTHONPATH": os.fspath(Path(kernels_report.__file__).parents[2]),
    }
    command = [sys.executable, *run, "--baseline", os.fspath(baseline), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_what_got_worse_than_the_baseline_is_named():
    made = Compiled("decode llama", 90, 4, 120, 0, 70 << 10, 396, 32 << 10)
    product = Compiled("packed q4_0", 90, 4, 96, 0, 24 << 10, 256, 16 << 10, 8.5)
    same = {made.key: made.metrics(), product.key: product.metrics()}
    baseline = {"triton": triton.__version__, "kernels": same}
    assert made.metrics() == [120, 3, 3 * (32 << 10), 0, 0]
    assert regressions([made, product], baseline) == []
    worse = {
        "registers a thread 120 → 128": Compiled("decode llama", 90, 4, 121, 0, 70 << 10, 396, 32 << 10),
        "programs an SM 3 → 2": Compiled("decode llama", 90, 4, 120, 0, 100 << 10, 396, 48 << 10),
        "bytes in flight an SM 98304 → 0": Compiled("decode llama", 90, 4, 120, 0, 70 << 10, 396, 0),
        "bytes spilled 0 → 8": Compiled("decode llama", 90, 4, 120, 8, 70 << 10, 396, 32 << 10),
        "instructions a weight 8.5 → 9.5": Compiled("packed q4_0", 90, 4, 96, 0, 24 << 10, 256, 16 << 10, 9.5),
    }
    for what, now in worse.items():
        others = [c for c in (made, product) if c.key != now.key]
        (fault,) = regressions([now, *others], baseline)
        assert what in fault


def test_a_kernel_that_the_baseline_or_the_report_lacks_is_a_fault():
    """A kernel without a limit would get worse unnoticed."""
    made = Compiled("decode llama", 90, 4, 120, 0, 70 << 10, 396, 32 << 10)
    new = Compiled("prefill llama", 90, 4, 120, 0, 70 << 10, 396, 32 << 10)
    baseline = {"triton": triton.__version__, "kernels": {c.key: c.metrics() for c in (made, new)}}
    assert regressions([made], baseline)[0].startswith(
        "sm_90 prefill llama: in the baseline, and not compiled any more"
    )
    assert regressions([made], baseline, only="decode") == []
    del baseline["kernels"][new.key]
    assert regressions([made, new], baseline)[0].startswith("sm_90 prefill llama: not in the baseline")
    assert regressions([made], {"triton": "0", "kernels": {}})[0].startswith("the baseline is of Triton 0")


def test_a_gpu_that_is_refused_is_explained_and_no_fault():
    fine = Compiled("append", 75, 1, 60, 0, 0)
    slow = Compiled("decode llama", 75, 4, 255, 512, 24 << 10, scalar=True)
    none = Compiled("packed q4_k", 75, 1, 0, 0, 0, failure="PTXASError: no bfloat16")
    (line,) = refusals([fine, slow, none, Compiled("decode llama", 80, 4, 120, 0, 0)])
    assert line == (
        "refused: sm_75: 2 of 3 kernels can't run well there; 1 do not compile, 1 make matrix products without tensor "
        "cores, and up to 512 bytes of registers are spilled"
    )
    assert none.faults() == ["sm_75 packed q4_k does not compile: PTXASError: no bfloat16"]


@pytest.mark.slow
def test_a_sample_of_kernels_is_as_the_baseline_has_it_and_a_worse_one_fails(tmp_path):
    """Attention of a small model. Prefill as if it had been better before, in each metric."""
    document = json.loads(BASELINE.read_text("utf-8"))
    prefill = "sm_90 prefill smollm2"
    metrics = document["kernels"][prefill]
    better = [metrics[0] - 8, metrics[1] + 1, metrics[2] + 1, metrics[3] - 1, metrics[4] - 1]
    document["kernels"][prefill] = better
    (tmp_path / "better.json").write_text(json.dumps(document))
    only = ["--target", "90", "--workers", "1", "--only", "^sm_90 (decode|prefill) smollm2"]
    made = report(*only, run=("-W", "ignore", "-c", SAMPLE), baseline=tmp_path / "better.json")
    assert made.returncode == 1, made.stdout + made.stderr
    assert "3 kernels compiled" in made.stdout
    found = [line for line in made.stderr.splitlines() if line and line[0] != "·"]
    assert sorted(line.partition(";")[0] for line in found) == sorted(
        f"{prefill}: {name} {before:g} → {now:g}"
        for name, before, now in zip(document["metrics"], better, metrics, strict=True)
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kernel_is_no_worse_than_the_baseline():
    """With nothing in the cache this takes seven minutes of CPU."""
    made = report("--target", "80", "--target", "89", "--target", "90", "--target", "100")
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_triton_makes_no_product_on_turings_tensor_cores():
    """This is why 7.5 is refused. Where it fails, Triton has learnt it: serve Turing in float16, and lower OLDEST."""
    made = report("--target", "75", "--only", "(decode|prefill) llama|packed q4_k")
    assert made.returncode == 0, made.stdout + made.stderr
    bad, compiled, failed, scalar = map(
        int, re.search(r"(\d+) of (\d+) kernels .*; (\d+) do not compile, (\d+) make", made.stdout).groups()
    )
    assert bad == compiled == failed + scalar > 0
