"""A machine where no node can run, and a cluster of which too little is known, are refused with what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.cluster import nodes, requirements
from e2e.cluster.given import given_cluster
from e2e.cluster.handles import MissingError

ROOT = Path(__file__).parents[3]


def test_each_missing_command_is_a_sentence_and_one_command_installs_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nodes, "CNI_FOLDERS", (tmp_path,))
    monkeypatch.setattr(requirements, "BUSYBOX_BINARY", tmp_path / "busybox")
    *sentences, remedy = requirements.missing()
    assert "containerd is not installed; it runs the nodes' containers." in sentences
    assert remedy.startswith("On Debian and Ubuntu: apt-get install -y ")
    packages = {package for package, _ in requirements.PACKAGES.values()}
    assert packages | {"containernetworking-plugins", "busybox-static"} <= set(remedy.split())
    assert set(requirements.missing_packages()) <= set(remedy.split())


def test_a_busybox_that_needs_libraries_is_not_taken():
    """In an image without a C library it would not start."""
    assert not requirements._is_static(Path(sys.executable).resolve())
    assert not requirements._is_static(Path(__file__))


def test_another_system_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert requirements.missing() == ["a node needs Linux, and this is darwin."]


@pytest.mark.skipif(os.geteuid() == 0, reason="is about those who are not root")
def test_without_root_the_verb_says_so_and_ends_with_2():
    done = up()
    assert done.returncode == 2
    assert "a node needs root" in done.stderr


def test_what_is_missing_ends_the_verb_with_2(tmp_path):
    done = up(PATH=str(tmp_path))
    assert done.returncode == 2
    assert "containerd is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_persons_cluster_needs_a_registry_and_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("OCTAVO_E2E_REGISTRY", raising=False)
    monkeypatch.delenv("OCTAVO_E2E_HOST", raising=False)
    with pytest.raises(MissingError) as caught:
        given_cluster()
    assert [sentence.split()[0] for sentence in caught.value.sentences] == ["KUBECONFIG"] * 3
    assert "OCTAVO_E2E_REGISTRY" in str(caught.value)
    assert "OCTAVO_E2E_HOST" in str(caught.value)


def up(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "e2e.cluster", "up"],
        cwd=ROOT,
        env={**os.environ, "OCTAVO_CLUSTER": "never-made", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
