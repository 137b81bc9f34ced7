"""The number of threads to run: what the user says, or as many as the cores that this process may use.

Those are bounded by its affinity mask and by the CPU quota of its control groups.

A container's limit (`resources.limits.cpu`) is a quota of time, not a set of cores: with more threads than it pays for,
the kernel stops all of them for the rest of each period, in the middle of a step.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cores:
    in_mask: int
    quota: float | None  # in cores; None: unlimited

    @property
    def usable(self) -> int:
        """Threads worth starting, at least one."""
        return self.in_mask if self.quota is None else max(1, min(self.in_mask, math.ceil(self.quota)))


def number_of_threads(flag: int | None) -> int:
    """`flag` (--threads), else OMP_NUM_THREADS, else one for each core that may be used."""
    cores = available_cores()
    variable = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    asked = flag if flag is not None else int(variable) if variable.isdecimal() and int(variable) > 0 else None
    if asked is None:
        if cores.usable < cores.in_mask:
            logger.info(
                "%d threads rather than %d: the CPU limit of this container is %.2f cores; --threads sets another number",
                cores.usable,
                cores.in_mask,
                cores.quota,
            )
        return cores.usable
    if asked > cores.usable:
        name = "--threads" if flag is not None else "OMP_NUM_THREADS"
        logger.warning(
            "%s %d is more than the %d cores that this process may use: its threads will wait for each other; lower it",
            name,
            asked,
            cores.usable,
        )
    return asked


def available_cores() -> Cores:
    try:
        in_mask = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        in_mask = os.cpu_count() or 1
    return Cores(in_mask, cpu_quota())


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The least quota of the process's control group and those above it, in cores. cgroup v1 and v2.

    `root` is where /proc and the mounts of control groups are found. What can't be read or understood limits nothing.
    """
    quotas: list[float] = []
    for mount in _mounts(root):
        group = mount.point
        levels = [group := group / part for part in mount.group.parts]
        quotas += [quota for level in (mount.point, *levels) if (quota := _quota_of(level, version=mount.version))]
    return min(quotas, default=None)


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted hierarchy that limits CPU time, and this process's group, relative to the mount."""

    point: Path
    group: Path
    version: int


def _mounts(root: Path) -> list[_Mount]:
    groups: dict[int, str] = {}
    for line in _lines(root / "proc/self/cgroup"):  # hierarchy:controllers:path
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            groups[2] = path
        elif "cpu" in controllers.split(","):
            groups[1] = path
    mounts = []
    for line in _lines(root / "proc/self/mountinfo"):  # … root point options … - type source options
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            version = 2
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            version = 1
        else:
            continue
        if version in groups:
            point = root / fields[4].lstrip("/")
            mounts.append(_Mount(point, _below(groups[version], fields[3]), version))
    return mounts


def _below(group: str, mounted: str) -> Path:
    """`group` as seen from a mount that shows the hierarchy from `mounted` on.

    A container without a cgroup namespace sees its own group alone, under the path that it has on the host.
    """
    if ".." in Path(group).parts:  # outside of the namespace's root
        return Path()
    try:
        return Path(group).relative_to(mounted)
    except ValueError:
        return Path()


def _quota_of(group: Path, *, version: int) -> float | None:
    if version == 2:
        words = " ".join(_lines(group / "cpu.max")).split()  # "max 100000", "150000 100000"
    else:
        words = [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]  # -1: unlimited
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
