"""The commands of the first quarter of an hour run as printed: `make cluster`, the chart's notes, the README."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from e2e.world import ROOT, SYSTEM, World

pytestmark = pytest.mark.short
COMMAND = re.compile(r"(export|make|helm|kubectl|curl|kill) ")
LIMIT_S = 900


def commands(text):
    """The lines of a text that are commands, with what continues them: after a backslash, or up to a heredoc's end."""
    result, end = [], None
    for line in text.splitlines():
        if end is None and not COMMAND.match(line) and not (result and result[-1].endswith("\\")):
            continue
        result.append(line)
        if end is None:
            opened = re.search(r"<<'(\w+)'", line)
            end = opened and opened[1]
        elif line == end:
            end = None
    assert end is None, f"the end of the heredoc, {end}, does not begin its line:\n{text}"
    return "\n".join(result)


def blocks(section):
    """The fenced blocks of a section of the README."""
    text = re.split(r"^##+ ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (found,) = (part for part in text if part.startswith(f"{section}\n"))
    return re.findall(r"^```\w*\n(.*?)^```$", found, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def paste(cluster):
    """Runs a script as a person's shell in the checkout would, stopped by its first failure; what it printed."""
    if not cluster.is_ours:
        pytest.skip("`make cluster` prints how to install on a cluster of its own; this one is not the suite's")
    outer = {"KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # of a make that runs the suite
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment["OCTAVO_CLUSTER"] = cluster.layout.name

    world = World(cluster)

    def run(script):
        # What is left in the background must not keep the pipe open.
        script = f"set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n{script}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n\n{done.stdout}\n{world.state_of('default')}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def printed(paste):
    """The commands that `make cluster` prints."""
    said = paste("make cluster")
    return commands("\n".join(line.removeprefix("  ") for line in said.splitlines()))


@pytest.fixture(scope="module")
def notes(paste, printed, helm):
    """The chart's notes, after the printed commands have installed it."""
    helm("uninstall", "octavo", "-n", SYSTEM, "--wait", "--ignore-not-found")
    said = paste(printed)
    assert "helm install" in printed
    return said[said.index("NOTES:") :]


@pytest.fixture
def ended(installed):
    """The services of the namespace in which people begin are gone afterwards."""
    yield
    installed.kubectl("delete", "llms,secrets", "--all", "-n", "default", "--timeout=60s")


@pytest.fixture(scope="module")
def installed(cluster, notes):
    assert notes
    return cluster


def answer(said):
    """The model's answer in what curl has printed: no line break follows it."""
    start = said.index('{"id"')
    return json.JSONDecoder().raw_decode(said[start:])[0]["choices"][0]["message"]["content"]


def test_the_notes_lead_to_an_answer(paste, printed, notes, ended, record_property):
    """The commands that `make cluster` prints install Octavo; those that the chart then prints end with a model's
    answer
    """
    exports = next(line for line in printed.splitlines() if line.startswith("export "))
    said = paste(f"{exports}\nexport HF_TOKEN=hf_none\n{commands(notes)}")
    record_property("answer", answer(said)[:60])


def test_the_readme_leads_to_an_answer(paste, printed, installed, ended, record_property):
    """The README's commands after the install, pasted, end with a model's answer"""
    exports = next(line for line in printed.splitlines() if line.startswith("export "))
    (script,) = (block for block in blocks("On a cluster") if "config/samples" in block)
    record_property("answer", answer(paste(f"{exports}\n{script}"))[:60])


def test_the_readme_pushes_and_installs(paste, printed, cluster, installed, helm, record_property):
    """`make push` to a registry, and the chart pointed at it by one value, as the README has it"""
    exports = next(line for line in printed.splitlines() if line.startswith("export "))
    (script,) = (block for block in blocks("On a cluster") if "make push" in block)
    helm("uninstall", "octavo", "-n", SYSTEM, "--wait")
    registry = f"{cluster.urls.registry}/team"
    script = script.replace("REGISTRY=registry.example/team", f"REGISTRY=http://{registry}")
    paste(f"{exports}\n{script.replace('registry.example/team', registry)}")
    images = cluster.kubectl("-n", SYSTEM, "get", "deployment", "octavo-operator", "-o", "jsonpath={..image}")
    assert all(image.startswith(f"{registry}/octavo/operator:") for image in images.split())
    record_property("images", images)
