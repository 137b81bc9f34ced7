"""The order in which workers run the files of the suite: a pytest plugin.

Files that share a control plane go to one worker, since starting and keeping one costs as much CPU as their tests. They
wait more than they compute, so they start first, and the others compute beside them. After its last file the control
plane ends, for an idle one takes CPU too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

LANES = {
    "control plane of the operator": ("tests/reconcile",),
    "control plane of all else": (
        "tests/metrics_api",
        "tests/cluster/test_cluster_client.py",
        "tests/crd/test_crd_on_server.py",
        "tests/octavo_testing/test_control_plane.py",
        "tests/octavo_testing/test_fake_kubelet.py",
        "tests/octavo_testing/test_fault_proxy.py",
        "tests/verbs/test_render_verb.py",
    ),
    "the chart's control plane": ("tests/chart",),
}
"""Lane: the files, or the folders whose own files (not those of folders below), that one worker runs."""
LONG = (
    "tests/cli/test_kernels_report.py",
    "tests/correctness",
    "tests/kernels",
    "tests/local",
    "tests/serve",
    "tests/executors",
)
"""Parts that start right after the lanes: at the end of a run, one long file would keep all workers waiting."""


def group_of(path: str) -> str:
    """The lane of a file, or the file itself: what one worker runs in one go."""
    folder = str(PurePosixPath(path).parent)
    return next((lane for lane, members in LANES.items() if path in members or folder in members), path)


class Scheduling(LoadScopeScheduling):
    """Assigns whole lanes and whole files to workers, in the order in which they are collected.

    After a crash the run goes on without the test that crashed: xdist 3.8 would run it again, and wait for ever once the
    new worker has a single test left, since a worker keeps its last one back until another follows or the run ends.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])

    def remove_node(self, node: WorkerController) -> str | None:
        work = self.assigned_work.pop(node)
        pending = {scope: [test for test, done in unit.items() if not done] for scope, unit in work.items()}
        crashed = next((test for tests in pending.values() for test in tests), None)
        for scope, tests in pending.items():
            if left := {test: False for test in tests if test != crashed}:
                self.workqueue[scope] = left
        for other in self.assigned_work if self.workqueue else ():
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        super()._reschedule(node)
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._reschedule(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    lanes = list(LANES)

    def turn(item: pytest.Item) -> int:
        group = group_of(_path(item))
        if group in LANES:
            return lanes.index(group)
        return len(lanes) + (not group.startswith(LONG))

    items.sort(key=turn)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    shares = "control_plane" in getattr(item, "fixturenames", ())
    if shares and hasattr(item.config, "workerinput") and group_of(_path(item)) not in LANES:
        pytest.fail(f"{_path(item)} needs the control plane: give it a lane in {__name__}.LANES", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if nextitem is None or not hasattr(item.config, "workerinput"):
        return
    lane = group_of(_path(item))
    if lane in LANES and group_of(_path(nextitem)) != lane:
        for definition in item.session._fixturemanager.getfixturedefs("control_plane", item) or ():
            definition.finish(item._request)  # as at the session's end; a test that asks again gets another


def _path(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
