"""The container's memory limit, from files laid out as the kernel does."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo_engine.core.memory_limit import MemoryLimit, available_memory, container_limit


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_version_2_in_a_namespace_of_its_own(tmp_path) -> None:
    """A container sees its own group as the root; page cache that can be dropped does not count as used."""
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "400\n",
            "sys/fs/cgroup/memory.stat": "anon 100\ninactive_file 150\nactive_file 9\n",
        },
    )
    assert container_limit(root) == MemoryLimit(1000, 250)


def test_version_2_nested_takes_the_tightest(tmp_path) -> None:
    """A pod's limit binds although the container has none."""
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/box\n",
            "sys/fs/cgroup/kubepods/pod1/box/memory.max": "max\n",
            "sys/fs/cgroup/kubepods/pod1/memory.max": "2000\n",
            "sys/fs/cgroup/kubepods/pod1/memory.current": "500\n",
            "sys/fs/cgroup/kubepods/memory.max": "9000\n",
        },
    )
    assert container_limit(root) == MemoryLimit(2000, 500)


def test_version_1_whose_path_is_not_mounted_inside(tmp_path) -> None:
    """Docker without a cgroup namespace shows the host's path, and mounts the container's own group."""
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "800\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 300\n",
        },
    )
    assert container_limit(root) == MemoryLimit(3000, 500)


@pytest.mark.parametrize("limit", ["9223372036854771712\n", None])
def test_no_limit_is_none(tmp_path, limit) -> None:
    """Version 1 writes a huge number where there is none."""
    files = {"proc/self/cgroup": "4:memory:/\n"}
    if limit:
        files["sys/fs/cgroup/memory/memory.limit_in_bytes"] = limit
    assert container_limit(tree(tmp_path, files)) is None


def test_group_outside_of_the_namespace_reads_what_is_mounted(tmp_path) -> None:
    """A path with `..` is not followed."""
    root = tree(tmp_path, {"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/memory.max": "700\n"})
    assert container_limit(root) == MemoryLimit(700, 0)


def test_machine_without_these_files(tmp_path) -> None:
    """Some kernels lack them."""
    assert container_limit(tmp_path) is None
    assert available_memory(tmp_path) == 0


def test_available_memory_is_the_kernels_estimate(tmp_path) -> None:
    """In bytes."""
    root = tree(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    5 kB\n"})
    assert available_memory(root) == 5 * 1024
