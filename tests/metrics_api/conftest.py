"""One leader and one replica of the metrics API for each module, behind a real aggregation layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fake_engines import FakeEngine
from metrics_api_runs import deployment, install, serving


@pytest.fixture(scope="session")
def installed(control_plane):
    """The control plane with what config/ installs, but for the operator's Deployment."""
    install(control_plane)
    return control_plane


@pytest.fixture(scope="module")
def served(installed, tmp_path_factory):
    """(MetricsApi, Operator): announced, available and leading."""
    with serving(installed, tmp_path_factory.mktemp("metrics-api")) as both:
        yield both


@pytest.fixture
def engines() -> Iterator[Callable[..., list[FakeEngine]]]:
    """Makes fake engines on one port, by default a free one, each at an address of its own."""
    made: list[FakeEngine] = []

    def make(count: int, port: int = 0) -> list[FakeEngine]:
        port = port or (made[0].port if made else 0)
        for _ in range(count):
            engine = FakeEngine(port=port)
            port = engine.port
            made.append(engine.__enter__())
        return made[-count:]

    yield make
    for each in made:
        each.__exit__()


@pytest.fixture
def pods_of(installed, namespace, kubelet):
    """Makes a Deployment of so many pods at a port, and gives them, oldest first."""

    def make(name: str, replicas: int, port: int):
        made = deployment(name, replicas, port)
        made["metadata"]["namespace"] = namespace
        installed.api.create(made)
        return kubelet.pods(namespace, f"octavo.dev/service={name}", replicas)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Append the processes' last output to the report of a failed test."""
    report = yield
    if report.failed:
        for each in getattr(item, "funcargs", {}).get("served", ()):
            report.sections.append((type(each).__name__, "\n".join(each.log.read_text().splitlines()[-40:])))
    return report
