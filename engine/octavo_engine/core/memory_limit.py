"""The memory that this process may use: the container's limit, or what the machine has available. Reads files only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A container's limit and what its processes hold of it already (without page cache that can be dropped)."""

    limit: int
    used: int


def container_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The tightest memory limit of this process's cgroup and of those around it; None if there is none.

    Understands cgroup v2 and v1, nested groups, and a cgroup namespace that shows the container's own group as "/".
    """
    found: list[MemoryLimit] = []
    for mount, limit_file, usage_file, cache_key, path in _hierarchies(root):
        group = mount / path.lstrip("/")
        while True:
            limit = _number(group / limit_file)
            if limit is not None and limit < UNLIMITED:
                used = (_number(group / usage_file) or 0) - _stat(group / "memory.stat", cache_key)
                found.append(MemoryLimit(limit, max(0, used)))
            if group == mount:
                break
            group = group.parent
    return min(found, key=lambda m: m.limit - m.used, default=None)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that the machine could give without swapping (MemAvailable); 0 if the kernel does not report it."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _hierarchies(root: Path) -> list[tuple[Path, str, str, str, str]]:
    """Mount point, names of the limit's, usage's and droppable cache's entries, and the group's path, v2 and v1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/", "1:memory:/"]
    mounted = root / "sys/fs/cgroup"
    result = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if ".." in Path(path).parts:  # a group outside of this namespace: only what is mounted can be read
            path = "/"
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            result += [(mounted, *names, path), (mounted / "unified", *names, path)]
        elif "memory" in controllers.split(","):
            result.append(
                (mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", path)
            )
    return result


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(file: Path, key: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(value) for name, _, value in (line.partition(" ") for line in lines) if name == key), 0)
