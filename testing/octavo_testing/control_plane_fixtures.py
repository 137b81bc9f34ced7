"""The fixtures `control_plane`, `namespace` and `kubelet`, registered as a plugin by tests/conftest.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from octavo_testing.api_client import until
from octavo_testing.cluster import Cluster, UserCluster
from octavo_testing.control_plane import ControlPlane
from octavo_testing.fake_kubelet import FakeKubelet
from octavo_testing.kubernetes_binaries import binaries, build

_running: list[ControlPlane] = []
BUILD_ERROR = pytest.StashKey[build.BuildError]()
NODES_OF = "tests/namespace"


@pytest.fixture(scope="session")
def control_plane(request, tmp_path_factory) -> Iterator[Cluster]:
    """A real API server with its controllers: `control_plane.ControlPlane`, or $KUBECONFIG's cluster."""
    yield from started(request, tmp_path_factory)


def started(request, tmp_path_factory) -> Iterator[Cluster]:
    """Start the cluster of the fixture `control_plane`, for parts that need one to themselves."""
    if (error := request.config.stash.get(BUILD_ERROR, None)) is not None:
        pytest.fail(str(error), pytrace=False)
    folder = tmp_path_factory.mktemp("control-plane")
    if os.environ.get("KUBECONFIG"):
        cluster = UserCluster(os.environ["KUBECONFIG"], folder)
        if cluster.in_use():
            pytest.fail(
                "$KUBECONFIG's cluster already has LLMServices, and the tests would change their definition and their "
                "operator's rights; unset KUBECONFIG, and the tests start a control plane of their own",
                pytrace=False,
            )
        yield cluster
        cluster.close()
        return
    with ControlPlane(folder) as plane:
        _running.append(plane)
        yield plane
        _running.remove(plane)


@pytest.fixture
def namespace(control_plane) -> Iterator[str]:
    """A namespace of the test's own, where Pod Security `restricted` is enforced; its pods run on its nodes alone."""
    made = control_plane.api.create(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "generateName": "test-",
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
    )
    name = made["metadata"]["name"]
    own_nodes = {"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/node-selector": f"{NODES_OF}={name}"}}}
    control_plane.api.patch("v1", "Namespace", name, "", own_nodes)
    until(lambda: control_plane.api.find("v1", "ServiceAccount", "default", name), 60, "the default ServiceAccount")
    yield name
    # Its deletion takes seconds, which the next test need not wait for.
    control_plane.api.delete("v1", "Namespace", name)


@pytest.fixture
def kubelet(control_plane, namespace) -> Iterator[FakeKubelet]:
    """A pretended kubelet, whose nodes run the pods of the test's namespace; they are gone after the test."""
    with FakeKubelet(control_plane, {NODES_OF: namespace}) as pretended:
        yield pretended


def pytest_collection_finish(session: pytest.Session) -> None:
    """The binaries are built before the first test, for minutes count against no test's time limit."""
    if session.config.option.collectonly:
        return
    if not any("control_plane" in getattr(item, "fixturenames", ()) for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # it says what it builds
        try:
            binaries()
        except build.BuildError as error:
            session.config.stash[BUILD_ERROR] = error


def pytest_report_header() -> list[str]:
    given = os.environ.get("KUBECONFIG")
    return [f"API server: that of $KUBECONFIG ({given}); unset it for one of the tests' own"] if given else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call) -> Any:
    """Append the control plane's last output to the report of a failed test that used it."""
    report = yield
    if report.failed and "control_plane" in getattr(item, "fixturenames", ()):
        report.sections.extend(("control plane", plane.logs(8)) for plane in _running)
    return report
