"""What the operator asks for is what its Role gives: no verb more, and none that is never used."""

from __future__ import annotations

import time

import yaml
from api_client import until
from operator_runs import ACCOUNT, API, ROOT, Operator, conditions, running, service, settled

APPS = "apps/v1"
MONITOR_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}


def granted() -> set[tuple[str, str, str]]:
    """(group, resource, verb) of everything in config/rbac/operator.yaml."""
    documents = yaml.safe_load_all((ROOT / "config/rbac/operator.yaml").read_text())
    rules = [rule for each in documents if each["kind"] in {"Role", "ClusterRole"} for rule in each["rules"]]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_verbs_in_the_audit_log_equal_the_role_exactly(installed, namespace, kubelet, tmp_path):
    """A life with every child, all optional ones removed again, on cards and not; nothing is denied."""
    api, mark = installed.api, installed.audit.mark()
    everything = {
        "cache": {"size": "1Gi"},
        "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
        "networkPolicy": {"enabled": True},
        "accelerator": {"products": ["NVIDIA-L4"]},
    }
    with running(installed, tmp_path / "operator.log", "--namespace", namespace) as operator:
        assert operator.health["role"] == "leader"  # the namespaced mode has no right that the other lacks
    api.create(MONITOR_CRD)
    installed.kubectl("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com")
    time.sleep(1)  # until it is served
    try:
        api.delete("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")
        with running(installed, tmp_path / "operator.log") as operator:
            api.create(service("s", namespace, **everything))
            until(lambda: api.find("monitoring.coreos.com/v1", "ServiceMonitor", "s", namespace), 30)
            settled(installed, operator, namespace)
            gone = {"cache": None, "autoscaling": None, "networkPolicy": None, "replicas": 1}
            api.patch(
                API, "LLMService", "s", namespace, {"spec": {**gone, "monitoring": {"serviceMonitor": "Disabled"}}}
            )
            until(lambda: api.find("monitoring.coreos.com/v1", "ServiceMonitor", "s", namespace) is None, 30)
            settled(installed, operator, namespace)
            assert operator.end() == 0
    finally:
        api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "servicemonitors.monitoring.coreos.com")
    used, allowed = installed.verbs_used(ACCOUNT, mark), granted()
    assert sorted(used - allowed) == []
    assert sorted(allowed - used) == []
    assert sorted(installed.denied(ACCOUNT, mark)) == []
    assert not any(resource == "secrets" for _, resource, _ in allowed)


def test_a_namespaced_operator_serves_its_namespaces_with_their_roles_alone(installed, namespace, tmp_path):
    """Without the ClusterRole: what config/rbac/namespaced gives is enough, and other namespaces are not looked at."""
    api, group = installed.api, "rbac.authorization.k8s.io/v1"
    binding = api.get(group, "ClusterRoleBinding", "octavo-operator")
    api.delete(group, "ClusterRoleBinding", "octavo-operator")
    try:
        installed.kubectl("apply", "-n", namespace, "-f", ROOT / "config/rbac/namespaced")
        api.delete("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")
        mark = installed.audit.mark()
        with running(installed, tmp_path / "operator.log", "--namespace", namespace) as operator:
            api.create(service("s", namespace, replicas=2))
            api.create(service("s", "default"))
            until(lambda: api.find(APPS, "Deployment", "s", namespace), 20)
            settled(installed, operator, namespace)
            assert conditions(installed, "s", "default") == {}
            assert sorted(installed.denied(ACCOUNT, mark)) == []
    finally:
        api.delete(API, "LLMService", "s", "default")
        for key in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            binding["metadata"].pop(key, None)
        api.create(binding)


def test_the_operators_own_metrics_tell_who_leads_and_what_is_watched(installed, tmp_path):
    """For Prometheus; and it ends in order when it is told to."""
    operator = Operator(installed.kubeconfig(ACCOUNT), tmp_path / "operator.log")
    operator.wait_ready()
    assert operator.ask("/metrics")[0] == 200
    text = operator.ask("/metrics")[1]
    assert "octavo_operator_leader 1.0" in text
    assert 'octavo_operator_watcher_up{resource="llmservices.octavo.dev"} 1.0' in text
    assert operator.end() == 0
