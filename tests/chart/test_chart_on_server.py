"""The rendered chart, switch by switch, is taken by a real API server; and kustomize's objects beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart_switches import SWITCHES
from foreign_definitions import FOREIGN
from helm_runs import CHART, ROOT, by_name, without_helm
from octavo_testing.api_client import until

Objects = dict[tuple[str, str, str], dict[str, Any]]
DRY = {"dryRun": "All", "fieldValidation": "Strict"}
DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")


@pytest.fixture(scope="module")
def server(control_plane) -> Iterator[Any]:
    """The API server, with the definitions of others; those that were not there before are gone afterwards."""
    api, made = control_plane.api, []
    for each in FOREIGN:
        name = each["metadata"]["name"]
        if api.find(*DEFINITION, name) is None:
            api.create(each)
            made.append(name)
    control_plane.wait_established(*made)
    yield control_plane
    for name in made:
        api.delete(*DEFINITION, name)
    until(lambda: all(api.find(*DEFINITION, name) is None for name in made), 30, "the definitions are gone")


PLACE = "kube-public"  # there in any cluster; nothing is left in it


@pytest.fixture(scope="module")
def plain(helm) -> Objects:
    """The chart as it is without values."""
    return by_name(helm.template(namespace=PLACE, tests=True))


def test_the_server_takes_the_chart_as_it_is(server, plain):
    for each in plain.values():
        server.api.apply(each, **DRY)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_changes_something_and_the_server_takes_it(server, helm, plain, name):
    """Strictly validated: a field that does not exist is refused, and so is a second of the same name."""
    rendered = by_name(helm.template(SWITCHES[name], PLACE, tests=True))
    assert rendered != plain, "the switch does nothing"
    for key, each in rendered.items():
        if each != plain.get(key):
            server.api.apply(each, **DRY)


@pytest.mark.parametrize("name", ["cert-manager", "scheduling", "environment"])
def test_the_pods_are_let_in_where_pod_security_is_restricted(server, namespace, helm, name):
    """A Deployment is only warned about; so its pod, and that of helm test, are asked about themselves."""
    server.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account(namespace)})
    for each in helm.template(SWITCHES[name], namespace, tests=True):
        pod = each["spec"]["template"] if each["kind"] == "Deployment" else each
        if each["kind"] in {"Deployment", "Pod"}:
            metadata = {**pod["metadata"], "name": "pod", "namespace": namespace}
            server.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}, **DRY)


def account(namespace: str) -> dict[str, str]:
    return {"name": "octavo-operator", "namespace": namespace}


def test_a_namespaced_operator_has_no_right_in_the_cluster(helm):
    """Only the two ClusterRoles that users get by aggregation are left, without a binding."""
    kinds = {key for key in by_name(helm.template({"watchNamespaces": ["chat"]})) if key[0].startswith("ClusterRole")}
    assert kinds == {("ClusterRole", "", "octavo-edit"), ("ClusterRole", "", "octavo-view")}


def test_no_right_is_a_wildcard_and_none_is_on_all_secrets(helm):
    for values in ({}, {"watchNamespaces": ["chat"]}):
        for each in helm.template(values):
            assert each["kind"] != "Secret"
            for rule in each.get("rules") or ():
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
                assert "secrets" not in rule["resources"] or rule["resourceNames"] == ["octavo-metrics-api-tls"]


def kustomized(server: Any, folder: str) -> Objects:
    found = by_name(yaml.safe_load_all(server.kubectl("kustomize", ROOT / folder)))
    found.pop(("Namespace", "", "octavo-system"), None)  # helm's is made by --create-namespace
    return {key: without_helm(each) for key, each in found.items()}


@pytest.mark.parametrize("folder", ["config", "."])
def test_kubectl_apply_k_has_the_same_objects_as_the_chart(server, helm, folder):
    charts = {key: without_helm(each) for key, each in by_name(helm.template()).items()}
    assert kustomized(server, folder) == charts


def test_the_monitoring_folder_has_the_same_objects_as_the_switches(server, helm):
    enabled = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}
    charts, plain = by_name(helm.template({"monitoring": enabled})), by_name(helm.template())
    assert kustomized(server, "config/monitoring") == {
        key: without_helm(each) for key, each in charts.items() if key not in plain
    }


def test_the_namespaced_folder_has_the_same_objects_as_the_switch(helm):
    """The namespace is given to kubectl, not in the objects."""
    charts = by_name(helm.template({"watchNamespaces": ["chat"]}))
    written = yaml.safe_load_all((ROOT / "config/rbac/namespaced/operator.yaml").read_text())
    for each in written:
        chart = charts[each["kind"], "chat", each["metadata"]["name"]]
        assert chart | {"metadata": {"name": each["metadata"]["name"]}} == each


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["chat"]}], ids=["all namespaces", "single namespaces"])
def test_the_notes_can_be_pasted(helm_on_server, values):
    """A heredoc's end begins its line; a single namespace is named wherever a service is."""
    said = helm_on_server.run("install", "octavo", CHART, "--dry-run=server", "--namespace", PLACE, values=values)
    notes = said[said.index("NOTES:") :]
    lines = notes.splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith("<<'EOF'"))
    manifest = yaml.safe_load("\n".join(lines[start + 1 : lines.index("EOF")]))
    assert manifest["kind"] == "LLMService"
    where = "-n chat " if values else ""
    for words in ("apply -f -", f"wait --for=condition=Ready llms/{manifest['metadata']['name']}", "port-forward"):
        assert f"\nkubectl {where}{words}" in notes
    assert "\ncurl " in notes
