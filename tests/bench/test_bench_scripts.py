"""Every script of `bench/` starts: what it imports is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in ROOT.glob("bench/*.py") if "ArgumentParser(" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_its_help_is_printed(name):
    """Each is started as `make` does it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "testing"), str(ROOT / "engine")))}
    command = [sys.executable, "-m", f"bench.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
