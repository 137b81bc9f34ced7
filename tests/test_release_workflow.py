"""The release workflow names what is there: targets of the Makefile, files, jobs, one version everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def jobs(request) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(request.param.read_text())["jobs"]
    return found


def scripts(jobs: dict[str, Any]) -> list[str]:
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def test_there_is_one():
    assert [path.name for path in WORKFLOWS] == ["release.yaml"]


def test_its_make_targets_exist(jobs):
    words = [
        word for script in scripts(jobs) for line in re.findall(r"\bmake +([^\n]+)", script) for word in line.split()
    ]
    named = {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}
    assert named
    assert named <= TARGETS, sorted(named - TARGETS)


def test_its_files_exist(jobs):
    paths = {
        path
        for script in scripts(jobs)
        for path in re.findall(
            r"(?<![\w/.{},])(?:charts|images|scripts|config)/[\w./-]+|[A-Za-z]+\.(?:toml|md)\b", script
        )
    }
    assert {"pyproject.toml", "CHANGELOG.md", "charts/octavo/values.yaml"} <= paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists() and path != "Chart.yaml"] == []


def test_every_job_waits_for_one_that_exists(jobs):
    for name, job in jobs.items():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs) - {name}


def test_every_image_of_a_release_is_one_that_is_built(jobs):
    build = (ROOT / "images" / "build.py").read_text()
    images = {image for script in scripts(jobs) for image in re.findall(r"octavo/(operator|engine):", script)}
    assert images == {"operator", "engine"}
    assert all(f"octavo/{image}:" in build for image in images)


def test_what_a_release_edits_in_the_chart_is_there():
    """The packaged chart names the registry of the release by this line of its values."""
    lines = (ROOT / "charts/octavo/values.yaml").read_text().splitlines()
    assert lines.count('  registry: ""') == 1


def test_project_and_chart_are_of_one_version():
    chart = yaml.safe_load((ROOT / "charts/octavo/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
