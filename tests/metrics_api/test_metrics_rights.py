"""The Roles give exactly the verbs that the metrics API and its announcement use: no verb more, and none unused."""

from __future__ import annotations

import json

import pytest
import yaml
from metrics_api_runs import NAMES, NAMESPACE, be_engine, get, serving
from octavo_testing.api_client import until
from octavo_testing.operator_runs import ACCOUNT, METRICS_API, METRICS_API_GROUPS, METRICS_API_ROLE, ROOT, service

COST = "controller.kubernetes.io/pod-deletion-cost"
SHARED = {("", "pods", "list"), ("", "pods", "watch")}  # the reconcile's own rights as well


def rules(role=""):
    documents = yaml.safe_load_all((ROOT / "config/rbac/operator.yaml").read_text())
    kinds = [each for each in documents if each["kind"] in {"Role", "ClusterRole"}]
    return [rule for each in kinds if role in {"", each["metadata"]["name"]} for rule in each["rules"]]


def verbs(given):
    return {
        (group, resource, verb)
        for rule in given
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.slow
def test_the_verbs_of_the_metrics_api_equal_its_roles_exactly(installed, namespace, kubelet, engines, tmp_path):
    """A life: certificate, announcement, an answer to a token, a mark for the scale-in, and the orderly end."""
    api, mark = installed.api, installed.audit.mark()
    api.delete("v1", "Secret", "octavo-metrics-api-tls", NAMESPACE)
    first, second = engines(2, port=8000)  # as an LLMService's
    first.running = 40
    kubelet.add_node(f"node-{namespace}")
    with serving(installed, tmp_path) as (server, operator):
        bearer = {"Authorization": f"Bearer {installed.service_account_token(namespace, 'default')}"}
        path = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/vllm_num_requests_waiting"
        assert server.ask(path, bearer)[0] == 403
        api.create(service("s", namespace, autoscaling={"minReplicas": 1, "maxReplicas": 2}))
        until(lambda: api.find("apps/v1", "Deployment", "s", namespace), 30)
        first.waiting = 30
        [pod] = kubelet.pods(namespace, "octavo.dev/service=s,app.kubernetes.io/component=engine")
        be_engine(kubelet, pod, first)
        busy = pod["metadata"]["name"]
        pods = kubelet.pods(namespace, "octavo.dev/service=s,app.kubernetes.io/component=engine", 2)
        [other] = [each for each in pods if each["metadata"]["name"] != busy]
        be_engine(kubelet, other, second)
        idle = other["metadata"]["name"]
        until(lambda: COST in annotations(api, idle, namespace), 60, "the idle one is marked")
        assert annotations(api, idle, namespace)[COST] == "-1"
        assert COST not in annotations(api, busy, namespace)
        first.running, first.waiting, second.running = 0, 0, 40
        until(lambda: COST in annotations(api, busy, namespace), 60, "the mark moves with the load")
        until(lambda: COST not in annotations(api, idle, namespace), 20)
        assert get(installed, f"/namespaces/{namespace}/pods/*/vllm_num_requests_waiting")["items"]
        # Something of the announcement is changed by hand, and restored.
        api.patch("apiregistration.k8s.io/v1", "APIService", NAMES[0], "", {"spec": {"versionPriority": 7}})
        until(lambda: priority(api) == 200, 30)
        assert operator.end() == 0
        assert server.end() == 0
    used = installed.verbs_used(ACCOUNT, mark)
    allowed = verbs(rules(METRICS_API_ROLE)) | METRICS_API | SHARED
    allowed |= {each for each in verbs(rules()) if each[0] in METRICS_API_GROUPS}
    assert sorted(allowed - used) == []
    assert sorted(used - allowed - verbs(rules())) == []
    assert sorted(installed.denied(ACCOUNT, mark)) == []


def priority(api):
    return api.get("apiregistration.k8s.io/v1", "APIService", NAMES[0])["spec"]["versionPriority"]


def annotations(api, name, namespace):
    return (api.find("v1", "Pod", name, namespace) or {"metadata": {}})["metadata"].get("annotations", {})


def test_secrets_config_and_announcements_are_given_by_name_alone():
    """No right is on all Secrets, ConfigMaps, ClusterRoles or APIServices."""
    for rule in rules():
        if {"secrets", "configmaps", "clusterroles", "apiservices"} & set(rule["resources"]):
            assert rule.get("resourceNames"), json.dumps(rule)
