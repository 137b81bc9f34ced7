"""Every script of `bench/` starts: what it imports is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SCRIPTS = sorted(path.name for path in BENCH.glob("*.py") if "ArgumentParser(" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_its_help_is_printed(name):
    done = subprocess.run(
        [sys.executable, BENCH / name, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
