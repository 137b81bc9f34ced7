"""The versions that images are made of: pinned, hashed, and those that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKS = {
    "engine-cpu.lock": [*PROJECT["project"]["dependencies"], *EXTRAS["engine"], *EXTRAS["otel"]],
    "engine-cuda.lock": [*PROJECT["project"]["dependencies"], *EXTRAS["engine"], *EXTRAS["cuda"], *EXTRAS["otel"]],
    "operator.lock": [*PROJECT["project"]["dependencies"], *EXTRAS["operator"]],
    "build.lock": [*PROJECT["build-system"]["requires"], *(IMAGES / "build.in").read_text().splitlines()[1:]],
}
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall((IMAGES / name).read_text()):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_what_the_project_asks_for(name):
    """`make locks` renews them."""
    pinned = pins(name)
    for line in LOCKS[name]:
        wanted = Requirement(line)
        if wanted.name == PROJECT["project"]["name"]:
            continue
        versions = pinned.get(canonicalize_name(wanted.name), set())
        assert versions, f"{wanted.name} is not in images/{name}: run make locks"
        assert all(wanted.specifier.contains(version) for version in versions), (
            f"{line}, not {versions}: run make locks"
        )


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_a_lock_has_a_hash(name):
    blocks = re.split(r"\n(?=[a-z0-9])", (IMAGES / name).read_text().partition("\n#    make locks\n")[2])
    assert len(blocks) > 5
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_package_index(name):
    assert "index-url" not in (IMAGES / name).read_text()
    assert "://" not in (IMAGES / name).read_text()


def test_the_images_hold_nothing_of_each_other():
    """The engine has no cluster client, the operator no tokenizer, and an image without a GPU no torch."""
    assert not pins("engine-cpu.lock").keys() & {"kopf", "kubernetes", "cryptography", "torch", "triton"}
    assert not pins("operator.lock").keys() & {"numpy", "tokenizers", "huggingface-hub", "uvloop", "torch", "pyzmq"}
