"""Kernels that an engine compiles outlive its pod: the image keeps them in the volume that the operator mounts."""

from __future__ import annotations

import re
from pathlib import Path

from octavo_engine.cli.compile import CAPABILITIES
from octavo_engine.kernels.folders import READ_FROM
from octavo_engine.kernels.triton.launch import OLDEST
from octavo_operator.planner.arguments import CACHE_PATH
from octavo_operator.runtimes import RUNTIMES

ROOT = Path(__file__).parents[2]


def variable(name: str) -> str:
    """The value that the engine's image gives a variable."""
    found = re.search(rf"{name}=(\S+)", (ROOT / "images/engine.Containerfile").read_text())
    assert found is not None
    return found[1]


def test_compiled_kernels_lie_in_the_cache_volume():
    assert variable("TRITON_CACHE_DIR").startswith(f"{CACHE_PATH}/")


def test_kernels_that_an_image_brings_lie_next_to_it():
    """A volume that is mounted there would hide them."""
    assert not variable(READ_FROM).startswith(f"{CACHE_PATH}/")
    documented = (ROOT / "docs/kernels.md").read_text()
    assert f'"--output", "{variable(READ_FROM)}"' in documented


def test_planner_engine_and_compiler_refuse_the_same_gpus():
    major, minor = RUNTIMES["octavo"].capability
    assert 10 * major + minor == OLDEST == min(CAPABILITIES)
