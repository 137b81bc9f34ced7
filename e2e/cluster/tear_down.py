"""The end of a cluster: nothing of it stays, and this is checked."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from e2e.cluster import cgroups
from e2e.cluster.layout import HANDED_OUT, Layout, known
from e2e.cluster.sandboxes import kill_all, processes

SECONDS = 20.0


def tear_down(name: str) -> list[str]:
    """Remove a cluster, or what is left of one; a sentence for each thing that could not be removed.

    Its namespaces take their mounts, devices, routes, rules and containers with them when their processes end.
    """
    kill_all(name)
    layout = known(name) or Layout(name, -1)
    if layout.number >= 0:
        # The kernel takes it when the other end goes, a moment later than the last process.
        subprocess.run(["ip", "link", "delete", layout.link], capture_output=True, check=False)
    cgroups.remove(layout.cgroup)
    given = layout.handed_out
    for folder in given:  # before the list of them goes
        (folder / "kubeconfig").unlink(missing_ok=True)
        shutil.rmtree(folder / "bin", ignore_errors=True)
        _remove_if_empty(folder)
        if folder.parent.name == HANDED_OUT:
            _remove_if_empty(folder.parent)
    end = time.monotonic() + SECONDS
    while layout.folder.exists() and time.monotonic() < end:
        if not _mounts(layout):
            shutil.rmtree(layout.folder, ignore_errors=True)
        time.sleep(0.05 if layout.folder.exists() else 0)
    _remove_if_empty(layout.folder.parent)
    return list(left(layout, given))


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def left(layout: Layout, given: Iterable[Path] = ()) -> Iterator[str]:
    """The remains of a cluster, a sentence each; `given`: the folders that it handed its kubeconfig out to."""
    for process in processes(layout.name):
        yield f"process {process.pid} ({' '.join(process.argv)[:80]}) still runs"
    if layout.number >= 0 and Path(f"/sys/class/net/{layout.link}").exists():
        yield f"the network device {layout.link} is still there"
    for mount in _mounts(layout):
        yield f"{mount} is still mounted"
    for root in cgroups.hierarchies():
        if (root / layout.cgroup).exists():
            yield f"the cgroup {root / layout.cgroup} is still there"
    for path in (layout.folder, *(folder / "kubeconfig" for folder in given)):
        if path.exists():
            yield f"{path} is still there"


def _mounts(layout: Layout) -> list[str]:
    """Mount points below the cluster's folder, in our own mount namespace (proc(5), mountinfo: the fifth field)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(layout.folder)]
