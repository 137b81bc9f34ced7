"""The first hour with a GPU: every step is run, whatever became of the others, and the report has all of it."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import gpu, gpu_first
from bench.gpu_first import METRICS, TESTS, Step, run

ROOT = Path(__file__).parent.parent.parent


def step(name, code, seconds=60.0):
    return Step(name, (sys.executable, "-c", code), seconds)


def test_a_step_that_fails_hangs_or_is_killed_stops_no_other(tmp_path):
    report = tmp_path / "report.md"
    report.write_text("# an earlier run\n")
    steps = [
        step("good", "print('72 GB/s')"),
        step("bad", "import sys; print('row 1 differs'); sys.exit(3)"),
        step("killed", "import os; print('before', flush=True); os.kill(os.getpid(), 11)"),
        step("hung", "import time; print('begun', flush=True); time.sleep(600)", 3.0),
        step("last", "print('all the same')"),
    ]
    assert run(steps, report) == 3
    text = report.read_text()
    for row in (
        "| good | ok |",
        "| bad | exit code 3 |",
        "| killed | killed by signal 11 |",
        "| hung | not done after 3 s |",
    ):
        assert row in text
    for said in ("# an earlier run", "72 GB/s", "row 1 differs", "before", "begun", "all the same"):
        assert said in text


def test_the_report_is_written_before_the_next_step_begins(tmp_path):
    """A machine that is taken away leaves what it has shown."""
    report = tmp_path / "report.md"
    seen = f"print(open({str(report)!r}).read())"
    assert run([step("first", "print('learnt')"), step("second", seen)], report) == 0
    text = report.read_text()
    assert text.count("| second | not begun |") == 1  # as the second step saw it
    assert text.count("learnt") == 2


def test_what_is_doubtful_comes_first_and_all_of_it_exists():
    """Wrong tokens before faults, faults before speed; each step names a test file or a part that there is."""
    names = [s.name for s in TESTS]
    assert [names.index(n) for n in names if "logits" in n or "full sequence" in n or "float8" in n] == [1, 2, 3]
    assert "corrupt context" in names[5]
    for s in (*TESTS, *METRICS):
        if "pytest" in s.command:
            assert all((ROOT / argument).exists() for argument in s.command if argument.startswith("tests/"))
        else:
            assert s.command[3] in {*gpu.CHECKS, "kernels", "rates"}
    assert set(gpu.KINDS) == {s.command[5] for s in METRICS if len(s.command) > 4}
    assert gpu_first.REPORT.name in (ROOT / ".gitignore").read_text().split()
