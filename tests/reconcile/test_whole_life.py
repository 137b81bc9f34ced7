"""A service's life on a real API server, as a person leads it with kubectl: every stage shows in the status."""

from __future__ import annotations

from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, ROOT, conditions, service, wait_for

APPS = "apps/v1"
PODS = "octavo.dev/service=s,app.kubernetes.io/component=engine"


def test_a_sample_becomes_a_deployment_that_serves(installed, operator, namespace, kubelet):
    """kubectl apply of the smallest sample makes its objects; once a pod is ready, the status says so."""
    kubelet.add_node("n1")
    installed.kubectl("apply", "-n", namespace, "-f", ROOT / "config/samples/smollm2.yaml")
    api = installed.api
    until(lambda: api.find(APPS, "Deployment", "smollm2", namespace), 20)
    assert {each["metadata"]["name"] for each in api.list("v1", "Service", namespace)} >= {"smollm2", "smollm2-pods"}
    kubelet.mark_pods_ready(namespace, "octavo.dev/service=smollm2")
    assert "1 of 1" in wait_for(installed, "smollm2", namespace, "Ready", "True", "Serving")["message"]
    wait_for(installed, "smollm2", namespace, "Progressing", "False")
    table = installed.kubectl("get", "llms", "-n", namespace)
    assert "Serving" in table
    assert "1/1" in table


def arguments(pod):
    return pod["spec"]["containers"][0]["args"]


def test_created_edited_scaled_broken_repaired_suspended_deleted(installed, operator, namespace, kubelet):
    """Replicas go on answering through an edit and through a breakage; nothing is left in the end."""
    api = installed.api
    kubelet.run_pods = True
    kubelet.add_node("n1")

    def engines():
        return [p for p in api.list("v1", "Pod", namespace, PODS) if "deletionTimestamp" not in p["metadata"]]

    def settles(generation, replicas):
        until(
            lambda: (
                (c := conditions(installed, "s", namespace))
                and (c["Ready"]["status"], c["Ready"]["observedGeneration"]) == ("True", generation)
                and (c["Progressing"]["status"], c["Stalled"]["status"]) == ("False", "False")
                and len(engines()) == replicas
            ),
            40,
            f"{replicas} replicas serve generation {generation}: {conditions(installed, 's', namespace)}",
        )

    api.create(service("s", namespace, replicas=2))
    settles(1, 2)
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": 7}}})
    settles(2, 2)
    assert all("7" in arguments(pod) for pod in engines())
    installed.kubectl("scale", "llms/s", "--replicas=3", "-n", namespace)
    settles(3, 3)
    kubelet.run_pods = False
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"image": {"repository": "nowhere", "tag": "1"}}}})
    new = until(lambda: [p for p in engines() if p["spec"]["containers"][0]["image"] == "nowhere:1"], 20)
    kubelet.mark_pods_waiting(namespace, f"{PODS},pod-template-hash={hash_of(new[0])}", "ImagePullBackOff")
    stalled = wait_for(installed, "s", namespace, "Stalled", "True", "ImagePullBackOff")
    assert "nowhere:1" in stalled["message"]
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True", "the old replicas still answer"
    kubelet.run_pods = True
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"image": None}}})
    settles(5, 3)
    until(lambda: "ImagePull" not in str(conditions(installed, "s", namespace)), 20, "nothing is left of it")
    api.patch(API, "LLMService", "s", namespace, {"spec": {"suspend": True}})
    wait_for(installed, "s", namespace, "Ready", "False", "Suspended")
    until(lambda: not engines(), 20, "no replica runs")
    installed.kubectl("delete", "llms", "s", "-n", namespace)
    for version, kind in ((APPS, "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget")):
        until(lambda v=version, k=kind: not api.list(v, k, namespace, "octavo.dev/service=s"), 60, f"no {kind} is left")


def hash_of(pod):
    return pod["metadata"]["labels"]["pod-template-hash"]
