"""The control groups of a cluster, below `octavo-cluster/` in every hierarchy of the machine, of version 1 or 2."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
TOP = "octavo-cluster"
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def hierarchies() -> list[Path]:
    """The roots: the one of version 2; or version 1's, one a controller, with what there is of version 2 beside them."""
    if (MOUNT / "cgroup.procs").exists():
        return [MOUNT]
    return sorted(path for path in MOUNT.iterdir() if (path / "cgroup.procs").exists()) if MOUNT.exists() else []


def make(path: str) -> None:
    """Make the group and those above it, ready for groups of pods in it."""
    for root in hierarchies():
        group = root
        for part in Path(path).parts:
            above, group = group, group / part
            group.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # version 1's start out empty, and then hold no process
                empty = (root / "tasks").exists() and (group / file).exists() and not (group / file).read_text().strip()
                if empty:
                    (group / file).write_text((above / file).read_text())
            _delegate(above)
        _delegate(group)


def _delegate(group: Path) -> None:
    """Let the groups below have the controllers; version 2 alone asks for it."""
    offered = group / "cgroup.controllers"
    if offered.exists():
        for controller in set(CONTROLLERS) & set(offered.read_text().split()):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(path: str, seconds: float = 10.0) -> list[Path]:
    """Remove the group and all below it, once its processes have ended; what is left when the time is over."""
    end = time.monotonic() + seconds
    while True:
        for root in hierarchies():
            for group in _below(root / path):
                _remove(group)
            if (root / TOP).exists() and not any(child.is_dir() for child in (root / TOP).iterdir()):
                _remove(root / TOP)
        left = [root / path for root in hierarchies() if (root / path).exists()]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def _below(group: Path) -> Iterator[Path]:
    """The group and all in it, the deepest first."""
    if group.is_dir():
        for child in group.iterdir():
            if child.is_dir():
                yield from _below(child)
        yield group


def _remove(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:  # its last process is still ending
        return
