"""A sandbox takes everything with it, whatever happened in it."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from e2e.cluster import cgroups
from e2e.cluster.layout import claim
from e2e.cluster.network import connect_first, connect_next
from e2e.cluster.requirements import missing
from e2e.cluster.sandboxes import Sandbox, SandboxError, kill_all, processes
from e2e.cluster.tear_down import left, tear_down

pytestmark = pytest.mark.skipif(bool(missing()), reason="; ".join(missing()))


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """A cluster's names, of a number that no other cluster of this machine has."""
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    monkeypatch.setattr("e2e.cluster.layout.ROOT", tmp_path)
    name = f"test-{uuid.uuid4().hex[:8]}"
    # 10.88.200.0/24 and above are the tests' own: a cluster of the machine's gets the first free number.
    folder = tmp_path / "clusters" / name
    folder.mkdir(parents=True)
    (folder / "number").write_text(str(200 + os.getpid() % 50))
    yield claim(name)
    assert tear_down(name) == []


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_all_that_was_made_in_a_sandbox_goes_with_its_first_process(layout, tmp_path):
    before = mounts()
    sandbox = Sandbox(layout.name, "node-1")
    sandbox.start()
    sandbox.run("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
    sandbox.run("iptables", "-A", "FORWARD", "-j", "DROP")
    sandbox.spawn("sleep", ["sleep", "3600"], tmp_path / "log")
    # A daemon of a daemon, in a session and without the mark, as containers are.
    sandbox.run("sh", "-c", "env -i setsid sleep 3601 >/dev/null 2>&1 &")
    assert mounts() == before
    assert kill_all(layout.name) == []
    assert "3601" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert mounts() == before


def test_host_and_nodes_reach_each_other_and_nothing_else(layout):
    first, second = Sandbox(layout.name, "node-1"), Sandbox(layout.name, "node-2")
    connect_first(layout, first)
    connect_next(layout, layout.node(2), second, first)
    one, two = layout.node(1), layout.node(2)
    for sandbox, others in ((first, (layout.host, two.address)), (second, (layout.host, one.address))):
        for other in others:
            sandbox.run("busybox", "ping", "-c1", "-W2", other)
        with pytest.raises(SandboxError, match="unreachable"):
            sandbox.run("busybox", "ping", "-c1", "-W2", "192.0.2.1")
    assert tear_down(layout.name) == []
    assert not Path(f"/sys/class/net/{layout.link}").exists()


def test_starting_a_sandbox_twice_gives_the_same_one(layout):
    sandbox = Sandbox(layout.name, "node-1")
    assert sandbox.start() == sandbox.start()


def test_a_daemon_is_found_by_its_name_and_can_be_ended(layout, tmp_path):
    sandbox = Sandbox(layout.name, "node-1")
    sandbox.start()
    assert sandbox.daemon("sleep") is None
    sandbox.spawn("sleep", ["sleep", "3600"], tmp_path / "log")
    until(lambda: sandbox.daemon("sleep"))
    sandbox.daemon("sleep").kill()
    until(lambda: sandbox.daemon("sleep") is None)


def test_groups_are_removed_with_all_that_is_in_them(layout):
    cgroups.make(f"{layout.cgroup}/node-1")
    roots = cgroups.hierarchies()
    assert all((root / layout.cgroup / "node-1").is_dir() for root in roots)
    assert cgroups.remove(layout.cgroup) == []
    assert not any((root / layout.cgroup).exists() for root in roots)


def test_what_an_interrupted_removal_has_left_is_removed(layout):
    """The remains are found where the cluster's number is gone already."""
    (layout.folder / "number").unlink()
    (layout.folder / "node-1").mkdir()
    Sandbox(layout.name, "node-1").start()
    assert tear_down(layout.name) == []
    assert not layout.folder.exists()


def test_what_is_left_is_reported(layout):
    """The check after the removal is no formality."""
    Sandbox(layout.name, "node-1").start()
    connect_first(layout, Sandbox(layout.name, "node-1"))
    cgroups.make(f"{layout.cgroup}/node-1")
    remains = "\n".join(left(layout))
    for what in ("still runs", layout.link, "cgroup", str(layout.folder)):
        assert what in remains


def test_other_clusters_processes_are_none_of_ours(layout):
    Sandbox(layout.name, "node-1").start()
    assert list(processes(layout.name[:-1])) == []
    assert kill_all(layout.name[:-1]) == []
    assert Sandbox(layout.name, "node-1").init()


def until(ask, seconds=10.0):
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.02)
