"""A platform that assigns each pod's user from a range of the namespace's, and refuses pods that name another."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import running, service, wait_for

ADMISSION = "admissionregistration.k8s.io/v1"
CRDS = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
SCC = "securitycontextconstraints.security.openshift.io"
ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"
FIELDS = ("runAsUser", "fsGroup")
NAMED = " || ".join(f"has(object.spec.securityContext.{field})" for field in FIELDS)


@pytest.fixture
def policy(installed, namespace):
    """A policy like OpenShift's restricted-v2, in this namespace."""
    api = installed.api
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    metadata = {"apiVersion": ADMISSION, "metadata": {"name": namespace}}
    words = ".spec.securityContext.runAsUser: Invalid value: 65532: must be in the ranges: [1000700000, 1000709999]"
    spec = {
        "matchConstraints": {"resourceRules": [pods]},
        "validations": [{"expression": f"!({NAMED})", "message": words}],
    }
    api.create({**metadata, "kind": "ValidatingAdmissionPolicy", "spec": spec})
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    spec = {"policyName": namespace, "validationActions": ["Deny"], "matchResources": where}
    api.create({**metadata, "kind": "ValidatingAdmissionPolicyBinding", "spec": spec})
    yield
    for kind in ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"):
        api.delete(ADMISSION, kind, namespace)


@contextmanager
def openshift(plane):
    """The mark of an OpenShift: the API of its security context constraints."""
    names = {"kind": "SecurityContextConstraints", "plural": SCC.partition(".")[0], "singular": "scc"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    spec = {"group": SCC.partition(".")[2], "names": names, "scope": "Cluster", "versions": [version]}
    plane.api.create({"apiVersion": CRDS[0], "kind": CRDS[1], "metadata": {"name": SCC}, "spec": spec})
    try:
        plane.wait_established(SCC)
        yield
    finally:
        plane.api.delete(*CRDS, SCC)


def has_pods(plane, namespace):
    until(lambda: plane.api.list("v1", "Pod", namespace, ENGINES), 30, "the platform takes its pod")


@pytest.mark.slow
def test_on_openshift_no_user_is_named(installed, namespace, policy, tmp_path):
    with openshift(installed), running(installed, tmp_path / "log", "--namespace", namespace):
        installed.api.create(service("s", namespace))
        has_pods(installed, namespace)


def test_elsewhere_a_flag_leaves_the_user_to_the_platform(installed, namespace, policy, tmp_path):
    """Without it the platform's refusal is reported, in its words."""
    with running(installed, tmp_path / "log", "--namespace", namespace):
        installed.api.create(service("s", namespace))
        assert "must be in the ranges" in wait_for(installed, "s", namespace, "Stalled", "True")["message"]
    with running(installed, tmp_path / "log", "--namespace", namespace, "--pod-user=Assigned"):
        has_pods(installed, namespace)
