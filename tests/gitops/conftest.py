"""Argo CD's own code, taught by config/argocd, for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from argocd_binary import ArgoCD, binary, build, overrides_of

ROOT = Path(__file__).parents[2]
BUILD_ERROR = pytest.StashKey[build.BuildError]()


@pytest.fixture(scope="session")
def argocd(request) -> ArgoCD:
    """Argo CD after an administrator has applied config/argocd."""
    if (error := request.config.stash.get(BUILD_ERROR, None)) is not None:
        pytest.fail(str(error), pytrace=False)
    return ArgoCD(binary(), overrides_of(yaml.safe_load((ROOT / "config/argocd/argocd-cm.yaml").read_text())))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build it before the first test, for minutes count against no test's time limit."""
    if session.config.option.collectonly or not any("argocd" in getattr(i, "fixturenames", ()) for i in session.items):
        return
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        try:
            binary()
        except build.BuildError as error:
            session.config.stash[BUILD_ERROR] = error
