"""The operator's Role gives exactly the verbs that the operator uses: no verb more, and none that is never used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from octavo_testing.api_client import until
from octavo_testing.operator_runs import (
    ACCOUNT,
    API,
    METRICS_API,
    METRICS_API_GROUPS,
    METRICS_API_ROLE,
    ROOT,
    conditions,
    running,
    service,
    settled,
)
from service_monitor_crd import MONITOR, service_monitors

APPS = "apps/v1"
RBAC = ROOT / "config/rbac"
LEADER = {("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update")}


def granted(file: Path) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of everything that a file of config/rbac gives the operator."""
    documents = [each for each in yaml.safe_load_all(file.read_text()) if each["kind"] in {"Role", "ClusterRole"}]
    rules = [rule for each in documents if each["metadata"]["name"] != METRICS_API_ROLE for rule in each["rules"]]
    found = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    return apart(found)


def apart(verbs: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    """The requests that are not the metrics API's."""
    return {each for each in verbs - METRICS_API if each[0] not in METRICS_API_GROUPS}


def live_a_whole_life(plane, operator, namespace, kubelet):
    """Bring up every child, on GPUs and with a claim that waits for its volume; then remove all optional ones."""
    api = plane.api
    everything = {
        "cache": {"size": "1Gi"},
        "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
        "networkPolicy": {"enabled": True},
        "accelerator": {"products": ["NVIDIA-L4"]},
    }
    kubelet.bind_claims = False
    api.create(service("s", namespace, **everything))
    until(lambda: api.find(*MONITOR, "s", namespace), 30)
    until(lambda: conditions(plane, "s", namespace).get("ModelCached", {}).get("reason") == "NoStorageClass", 30)
    gone = {"cache": None, "autoscaling": None, "networkPolicy": None, "replicas": 1}
    gone |= {"monitoring": {"serviceMonitor": "Disabled"}}
    api.patch(API, "LLMService", "s", namespace, {"spec": gone})
    until(lambda: api.find(*MONITOR, "s", namespace) is None, 30)
    settled(plane, operator, namespace)
    assert operator.end() == 0


def test_the_verbs_in_the_audit_log_equal_the_role_exactly(installed, namespace, kubelet, tmp_path):
    """Nothing is denied, and nothing is allowed that is not used; no Secret is ever asked for."""
    installed.api.delete("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")
    mark = installed.audit.mark()
    with service_monitors(installed), running(installed, tmp_path / "operator.log") as operator:
        live_a_whole_life(installed, operator, namespace, kubelet)
    used, allowed = apart(installed.verbs_used(ACCOUNT, mark)), granted(RBAC / "operator.yaml")
    assert sorted(used - allowed) == []
    assert sorted(allowed - used) == []
    assert sorted(installed.denied(ACCOUNT, mark)) == []
    assert not any(resource == "secrets" for _, resource, _ in allowed)


@pytest.mark.slow
def test_a_namespaced_operator_serves_its_namespaces_with_their_roles_alone(installed, namespace, kubelet, tmp_path):
    """Without the ClusterRole: what config/rbac/namespaced gives is used to the last verb, and other namespaces rest."""
    api, group = installed.api, "rbac.authorization.k8s.io/v1"
    binding = api.get(group, "ClusterRoleBinding", "octavo-operator")
    api.delete(group, "ClusterRoleBinding", "octavo-operator")
    try:
        installed.kubectl("apply", "-n", namespace, "-f", RBAC / "namespaced")
        api.delete("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")
        api.create(service("s", "default"))
        mark, log = installed.audit.mark(), tmp_path / "operator.log"
        with service_monitors(installed), running(installed, log, "--namespace", namespace) as operator:
            live_a_whole_life(installed, operator, namespace, kubelet)
        assert conditions(installed, "s", "default") == {}
        used, allowed = installed.verbs_used(ACCOUNT, mark), granted(RBAC / "namespaced/operator.yaml") | LEADER
        assert sorted(used - allowed) == []
        assert sorted(allowed - used) == []
        assert sorted(installed.denied(ACCOUNT, mark)) == []
    finally:
        api.delete(API, "LLMService", "s", "default")
        for key in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            binding["metadata"].pop(key, None)
        api.create(binding)


def test_the_operators_own_metrics_show_who_leads_and_what_is_watched(installed, tmp_path):
    """For Prometheus; and it ends in order on SIGTERM."""
    with running(installed, tmp_path / "operator.log") as operator:
        expected = {
            "octavo_operator_leader 1.0",
            'octavo_operator_watcher_up{resource="llmservices.octavo.dev"} 1.0',
        }
        until(lambda: expected <= set(operator.ask("/metrics")[1].splitlines()), 20, "the metrics say so")
        assert operator.end() == 0
