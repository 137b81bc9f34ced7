"""The installation that all tests here share: the CRD, the operator's rights, and one operator."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from octavo_testing.operator_runs import ROOT, Operator, running


@pytest.fixture(scope="session")
def installed(control_plane):
    """The control plane with what `kubectl apply -f crds -f config/rbac` installs."""
    control_plane.kubectl("apply", "-f", ROOT / "crds", "-f", ROOT / "config/rbac")
    control_plane.wait_established("llmservices.octavo.dev")
    return control_plane


@pytest.fixture(scope="module")
def operator(installed, tmp_path_factory) -> Iterator[Operator]:
    """One operator for the tests of a module, as its ServiceAccount."""
    with running(installed, tmp_path_factory.mktemp("operator") / "operator.log") as process:
        yield process


@pytest.fixture
def lax_schema(installed):
    """The CRD without rules and types for the spec: as if the object had been stored by another version."""
    name = "llmservices.octavo.dev"
    crd = installed.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    loose = json.loads(json.dumps(crd))
    schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema.pop("x-kubernetes-validations", None)
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    path = installed.api.path("apiextensions.k8s.io/v1", "CustomResourceDefinition", name=name)
    installed.api.request("PUT", path, loose)
    yield
    now = installed.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    now["spec"] = crd["spec"]
    installed.api.request("PUT", path, now)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Append the operators' last output to the report of a failed test."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, Operator):
                    report.sections.append((name, "\n".join(each.log.read_text().splitlines()[-40:])))
    return report


def pytest_terminal_summary(terminalreporter):
    """Print the measurements, which no assertion shows."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"measured: {name} {value} ({report.nodeid.rpartition('::')[2]})")
