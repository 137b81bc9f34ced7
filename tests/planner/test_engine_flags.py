"""A pinned engine is not given a flag that came after it; the table of flags is complete."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from octavo_testing.planner_cases import CPU, service

from octavo_operator.api.observed import Observed
from octavo_operator.planner import engine_flags, plan
from octavo_operator.planner.engine_flags import SINCE, known, version_of, warnings
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.runtimes import command_line, octavo
from octavo_operator.settings import Settings

OTHERS = {"--kv-cache-dtype"}  # of other runtimes
LATER = SINCE | {"--swap-space": (0, 2, 0), "--enforce-eager": (0, 3, 0)}
LINE = ("--dtype", "float16", "--swap-space", "4", "--enforce-eager", "--block-size", "16")


def test_every_flag_that_is_rendered_is_in_the_table():
    """A new one is added with the version of the engine that brings it."""
    rendered = set(re.findall(r'"(--[a-z-]+)"', inspect.getsource(command_line.arguments)))
    rendered |= {word for word in octavo.NEEDS_GPU if word.startswith("--")}
    assert rendered - OTHERS == set(SINCE)


def test_no_flag_is_newer_than_the_next_version():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    major, minor, patch = map(int, project["version"].split("."))
    assert all(since <= (major, minor, patch) for since in SINCE.values())


@pytest.mark.parametrize(
    ("version", "left"),
    [
        ((0, 1, 0), ("--dtype", "float16", "--block-size", "16")),
        ((0, 2, 5), ("--dtype", "float16", "--swap-space", "4", "--block-size", "16")),
        ((0, 3, 0), LINE),
        (None, LINE),
    ],
)
def test_an_older_engine_gets_no_newer_flag(version, left):
    assert known(LINE, version, LATER) == left
    assert bool(warnings(LINE, version, LATER)) == (left != LINE)


def test_a_field_that_is_left_out_is_reported():
    (said,) = warnings(LINE, (0, 1, 0), LATER)
    assert "--swap-space, --enforce-eager" in said
    assert "0.3.0" in said


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [
        ("octavo/engine:0.1.0", {}, (0, 1, 0)),
        ("mirror:5000/engine:v0.2.1-cuda", {}, (0, 2, 1)),
        ("octavo/engine:nightly", {}, (0, 9, 0)),  # the operator's own
        ("octavo/engine@sha256:" + "0" * 64, {}, (0, 9, 0)),
        ("octavo/engine:0.1.0", {"image": {"tag": "0.3.0"}}, (0, 3, 0)),
        ("octavo/engine:0.1.0", {"image": {"repository": "mine/engine", "tag": "0.0.1"}}, None),
        ("octavo/engine:0.1.0", {"runtime": "vllm"}, None),
    ],
)
def test_an_engines_version_is_its_tags(image, given, expected):
    made = service(accelerator=CPU, engine=given)
    settings = Settings(images={"octavo": image, "vllm-cpu": "vllm:1"}, version="0.9.0")
    assert version_of(made.spec.engine, hardware_of(made.spec), settings) == expected


def test_a_plan_for_a_pinned_engine_has_the_flags_that_it_has(monkeypatch):
    """A person's own arguments are left alone."""
    monkeypatch.setitem(engine_flags.SINCE, "--block-size", (0, 2, 0))
    made = service(accelerator=CPU, engine={"args": ["--seed", "1"]})
    today = Settings(images={"octavo": "octavo/engine:0.2.0"})
    pinned = replace(today, images={"octavo": "octavo/engine:0.1.0"})
    assert "--block-size" in plan(made, Observed(), today).engine.arguments
    old = plan(made, Observed(), pinned)
    assert "--block-size" not in old.engine.arguments
    assert old.engine.arguments[-2:] == ("--seed", "1")
    assert any("--block-size" in warning for warning in old.warnings)
