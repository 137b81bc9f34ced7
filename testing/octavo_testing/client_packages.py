"""Clients of other projects as people install them: each in a folder of its own in the tests' cache, at pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from octavo_testing.real_models import kept

PYTHON = (  # the newest that were at hand; the test says what of them is used
    "langchain-openai==1.7.4",
    "langchain-anthropic==1.7.10",
    "llama-index-llms-openai-like==0.8.1",
    "llama-index-embeddings-openai-like==0.4.0",
    "litellm==1.110.2",
)
JAVASCRIPT = ("openai@6.49.0",)
INSTALL_SECONDS = 900


def python_with(packages: Sequence[str] = PYTHON) -> Path:
    """The interpreter of a virtual environment that has `packages`. Skips the test where no index has them."""

    def write(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin/python"), "-m", "pip", "install", "-q", *packages])

    return _installed("python-clients", packages, write) / "bin/python"


def modules_with(packages: Sequence[str] = JAVASCRIPT) -> Path:
    """A folder whose node_modules has `packages`. Skips the test without node, or where no registry has them."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node is not installed")

    def write(folder: Path) -> None:
        _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", *packages])

    return _installed("javascript-clients", packages, write)


def _installed(kind: str, packages: Sequence[str], write: Callable[[Path], None]) -> Path:
    key = {"packages": list(packages), "python": sys.version_info[:2]}
    try:
        return kept(kind, key, write)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the package index can't be reached: it has {', '.join(packages)} ({error.stderr[-200:]})")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
