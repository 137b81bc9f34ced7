"""The number of threads that a container's CPU limit, the affinity mask and the user allow."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from octavo_engine.executors import cores
from octavo_engine.executors.cores import Cores, available_cores, cpu_quota, number_of_threads

V2 = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 master:3 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"


class Machine:
    """A /proc and the mounts of control groups, as files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def process(self, groups: str, *mounts: str) -> Machine:
        folder = self.root / "proc/self"
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(groups)
        (folder / "mountinfo").write_text("\n".join(("22 1 254:0 / / rw - ext4 /dev/vda rw", OTHER, *mounts)) + "\n")
        return self

    def v2(self, group: str, text: str) -> Machine:
        folder = self.root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)
        return self

    def v1(self, group: str, quota: str, period: str = "100000\n") -> Machine:
        folder = self.root / "sys/fs/cgroup/cpu,cpuacct" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text(period)
        return self

    @property
    def quota(self) -> float | None:
        return cpu_quota(self.root)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_v2_in_a_namespace(machine):
    """A container sees its own group as the root of the hierarchy."""
    assert machine.process("0::/\n", V2.format(root="/")).v2("", "150000 100000\n").quota == 1.5


def test_v2_without_a_limit(machine):
    assert machine.process("0::/\n", V2.format(root="/")).v2("", "max 100000\n").quota is None


def test_v2_takes_the_least_of_nested_groups(machine):
    """A pod's limit holds for its containers too, and the other way round."""
    machine.process("0::/kubepods/pod1/main\n", V2.format(root="/"))
    machine.v2("kubepods", "max 100000\n").v2("kubepods/pod1", "400000 100000\n")
    assert machine.v2("kubepods/pod1/main", "max 100000\n").quota == 4
    assert machine.v2("kubepods/pod1/main", "50000 100000\n").quota == 0.5
    assert machine.v2("kubepods", "20000 100000\n").quota == 0.2


def test_v2_at_the_root_of_the_hierarchy_has_no_file(machine):
    assert machine.process("0::/\n", V2.format(root="/")).quota is None


def test_v1_of_the_host(machine):
    machine.process("9:cpuset:/\n4:cpu,cpuacct:/kubepods/pod1\n1:name=systemd:/\n0::/\n", V1.format(root="/"))
    machine.v1("", "-1\n").v1("kubepods", "-1\n")
    assert machine.v1("kubepods/pod1", "250000\n").quota == 2.5


def test_v1_in_a_container_without_a_namespace(machine):
    """The group's path is the host's, of which the mount shows the end alone."""
    machine.process("4:cpu,cpuacct:/docker/abc/inner\n", V1.format(root="/docker/abc"))
    machine.v1("", "300000\n", "100000\n")
    assert machine.quota == 3
    assert machine.v1("inner", "50000\n", "50000\n").quota == 1


def test_v1_without_a_limit(machine):
    assert machine.process("4:cpuacct,cpu:/\n", V1.format(root="/")).v1("", "-1\n").quota is None


def test_both_versions_at_once(machine):
    """A hybrid machine: the v2 hierarchy has no cpu controller, or the v1 one has the larger limit."""
    machine.process(
        "4:cpu,cpuacct:/a\n0::/b\n", V1.format(root="/"), V2.format(root="/").replace("cgroup rw", "cgroup/unified rw")
    )
    machine.v1("a", "200000\n")
    assert machine.quota == 2
    folder = machine.root / "sys/fs/cgroup/unified/b"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text("100000 100000\n")
    assert machine.quota == 1


@pytest.mark.parametrize("text", ["", "nonsense\n", "100000\n", "0 100000\n", "100000 0\n", "-1 -1\n", "1 2 3\n"])
def test_what_is_not_understood_limits_nothing(machine, text):
    assert machine.process("0::/\n", V2.format(root="/")).v2("", text).quota is None


def test_no_control_groups_at_all(machine):
    """Systems other than Linux have none, and /proc may be hidden."""
    assert machine.quota is None
    assert machine.process("garbage\n\n0::/../../x\n", "short line", "1 2 3 4 5 6").quota is None


@pytest.mark.parametrize(
    ("in_mask", "quota", "usable"), [(8, None, 8), (8, 2.0, 2), (8, 2.1, 3), (8, 0.2, 1), (2, 16.0, 2), (1, None, 1)]
)
def test_threads_are_the_mask_or_the_quota_rounded_up(in_mask, quota, usable):
    assert Cores(in_mask, quota).usable == usable


@pytest.fixture
def four_of_eight(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "available_cores", lambda: Cores(8, 3.5))


@pytest.mark.usefixtures("four_of_eight")
class TestNumberOfThreads:
    def test_the_limit_decides_and_is_reported(self, caplog):
        caplog.set_level("INFO")
        assert number_of_threads(None) == 4
        assert "4 threads rather than 8: the CPU limit of this container is 3.50 cores" in caplog.text

    def test_the_variable_wins_over_the_limit(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
        assert number_of_threads(None) == 3

    @pytest.mark.parametrize("value", ["", "0", "-2", "many", " "])
    def test_a_variable_that_names_no_number_is_none(self, monkeypatch, value):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert number_of_threads(None) == 4

    def test_the_flag_wins_over_both_and_is_warned_of(self, monkeypatch, caplog):
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert number_of_threads(6) == 6
        assert "--threads 6 is more than the 4 cores" in caplog.text


def test_the_mask_of_this_process_counts():
    """Bound to one core, a process has one, whatever the machine has."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from octavo_engine.executors.cores import available_cores; print(available_cores().in_mask)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "1\n"


@contextmanager
def limited_group(quota: int):
    """A real control group of this machine that allows `quota` µs in 100,000; its path."""
    name = f"octavo-test-{os.getpid()}"
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    try:
        if (v1 / "cpu.cfs_quota_us").exists() or (v1 / "cgroup.procs").exists():
            group = v1 / name
            group.mkdir()
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            group = v2 / name
            group.mkdir()
            (group / "cpu.max").write_text(f"{quota} 100000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_real_control_group_is_found():
    """A process in a group of half a core, on this machine's own hierarchy."""
    program = "from octavo_engine.executors.cores import available_cores; print(available_cores().quota)"
    with limited_group(50_000) as group:
        run = subprocess.run(
            ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" -c "$1"', sys.executable, program],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.stdout == "0.5\n", run.stderr
    assert available_cores().quota is None or available_cores().quota != 0.5
