"""helm, built once a machine, alone and against the real control plane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helm_runs import Helm
from octavo_testing.cluster import Cluster
from octavo_testing.control_plane_fixtures import started
from octavo_testing.kubernetes_binaries import build

BUILD_ERROR = pytest.StashKey[build.BuildError]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """helm is built before the first test, for minutes count against no test's time limit."""
    if session.config.option.collectonly or not any("helm" in getattr(i, "fixturenames", ()) for i in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # it says what it builds
        try:
            build.binary("helm")
        except build.BuildError as error:
            session.config.stash[BUILD_ERROR] = error


@pytest.fixture(scope="session")
def control_plane(request, tmp_path_factory) -> Iterator[Cluster]:
    """One of the chart's own: helm takes over nothing that other parts have applied under the same names."""
    yield from started(request, tmp_path_factory)


@pytest.fixture(scope="session")
def helm(request, tmp_path_factory) -> Helm:
    """helm without a cluster."""
    if (error := request.config.stash.get(BUILD_ERROR, None)) is not None:
        pytest.fail(str(error), pytrace=False)
    return Helm(build.binary("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def helm_on_server(helm, control_plane, tmp_path_factory) -> Helm:
    """helm as the administrator of the control plane."""
    return Helm(build.binary("helm"), tmp_path_factory.mktemp("helm"), control_plane.kubeconfig())
