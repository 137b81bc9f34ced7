"""Changes on scarce GPUs, with the real scheduler and the real Deployment controller: every edit goes through."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

LLMS = "LLMService"
L4 = {"products": ["NVIDIA-L4"]}


def engines(name="s"):
    return f"octavo.dev/service={name},app.kubernetes.io/component=engine"


def plan_of(plane, namespace):
    return plane.api.get(API, LLMS, "s", namespace).get("status", {}).get("plan", {})


def serve(plane, kubelet, namespace, **spec):
    plane.api.create(service("s", namespace, accelerator=L4, **spec))
    until(lambda: conditions(plane, "s", namespace), 30, "a status")
    kubelet.mark_pods_ready(namespace, engines(), count=spec.get("replicas", 1))
    wait_for(plane, "s", namespace, "Ready", "True", "Serving")


def edit(plane, namespace, seqs=17):
    plane.api.patch(API, LLMS, "s", namespace, {"spec": {"engine": {"maxNumSeqs": seqs}}})


def lose_a_gpu(kubelet):
    """Take a GPU away, as another pod would."""
    amounts = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": "1"}
    kubelet.set_node_ready("n2", capacity=amounts, allocatable=amounts)


def replicas(plane, namespace):
    pods = plane.api.list("v1", "Pod", namespace, engines())
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in pods}


def test_a_surge_keeps_its_course_while_the_new_replica_loads(installed, operator, namespace, kubelet):
    """The surge has taken the GPU that was free: to choose again would end the only replica that answers."""
    kubelet.add_node("n1", gpus=2, product="NVIDIA-L4")
    serve(installed, kubelet, namespace)
    until(lambda: plan_of(installed, namespace)["rollout"] == "Surge", 30, "the node's GPUs are known")
    edit(installed, namespace)
    until(lambda: list(replicas(installed, namespace).values()) == ["n1", "n1"], 30, "both have a GPU")
    said = "a change that is under way ends as it began"
    until(lambda: plan_of(installed, namespace)["rolloutReason"] == said, 30, said)
    assert plan_of(installed, namespace)["rollout"] == "Surge"
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True"


@pytest.mark.slow
def test_a_surge_whose_gpu_was_taken_waits_and_then_the_old_replica_makes_way(installed, operator, namespace, kubelet):
    """No event reports that a minute is over: the operator looks again by itself. The outage is reported before it happens."""
    kubelet.add_node("n2", gpus=2, product="NVIDIA-L4")
    serve(installed, kubelet, namespace, rollout={"strategy": "Surge"})
    lose_a_gpu(kubelet)
    (old,) = replicas(installed, namespace)
    edit(installed, namespace)
    until(lambda: len(replicas(installed, namespace)) == 2, 20, "the surge has begun")
    installed.api.patch(API, LLMS, "s", namespace, {"spec": {"rollout": {"strategy": "Auto"}}})
    until(
        lambda: any("an old one makes way, an outage" in each for each in plan_of(installed, namespace)["warnings"]),
        30,
        "the outage is reported",
    )
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True"
    until(lambda: old not in replicas(installed, namespace), 150, "the old one makes way")
    kubelet.mark_pods_ready(namespace, engines())
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")


def serving(plane, kubelet, namespace, product, gpus):
    """A service on a GPU each, by name, all of them ready."""
    for name, count in gpus.items():
        accelerator = {"products": [product]}
        plane.api.create(service(name, namespace, accelerator=accelerator, engine={"tensorParallelSize": count}))
    for name in gpus:
        kubelet.mark_pods_ready(namespace, engines(name))
        wait_for(plane, name, namespace, "Ready", "True", "Serving")


def change(plane, namespace, name, **spec):
    plane.api.patch(API, LLMS, name, namespace, {"spec": spec or {"engine": {"maxNumSeqs": 17}}})


def followers(plane, namespace, names):
    """The services whose Deployment has the edit."""
    found = {name: plane.api.get("apps/v1", "Deployment", name, namespace) for name in names}
    return {n: d for n, d in found.items() if "17" in d["spec"]["template"]["spec"]["containers"][0]["args"]}


def answering(plane, namespace, name):
    return plane.api.get("apps/v1", "Deployment", name, namespace).get("status", {}).get("readyReplicas", 0)


@pytest.mark.slow
def test_services_that_are_edited_at_once_surge_one_after_the_other_for_one_free_gpu(
    installed, operator, namespace, kubelet
):
    """A GitOps tool applies them in one second. All surging at once would wait for one GPU; in place each is an outage."""
    names = ["s0", "s1", "s2"]
    kubelet.add_node("n3", gpus=4, product="NVIDIA-L40S")
    serving(installed, kubelet, namespace, "NVIDIA-L40S", dict.fromkeys(names, 1))
    for name in names:
        change(installed, namespace, name)
    done = []
    while len(done) < len(names):
        now = until(lambda: followers(installed, namespace, set(names) - set(done)), 40, "the next one follows")
        ((name, deployment),) = now.items()
        assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
        if not done:
            for waits in set(names) - {name}:
                message = wait_for(installed, waits, namespace, "Progressing", "True", "RolloutPending")["message"]
                assert f"{name} replaces its replicas" in message
                assert "rollout.strategy: InPlace" in message
                assert conditions(installed, waits, namespace)["Ready"]["status"] == "True"
        settled(installed, operator, namespace)
        assert followers(installed, namespace, set(names) - set(done)).keys() == {name}, "one at a time"
        assert all(answering(installed, namespace, each) == 1 for each in names)
        kubelet.mark_pods_ready(namespace, engines(name), count=2)
        wait_for(installed, name, namespace, "Progressing", "False", "Serving")
        done.append(name)


@pytest.mark.slow
def test_of_services_on_full_gpus_one_at_a_time_ends_its_replica(installed, operator, namespace, kubelet):
    """One frees a GPU of two, and the other's new replica would take one; then neither fits, and one never serves
    again.
    """
    kubelet.add_node("n4", gpus=3, product="NVIDIA-L20")
    serving(installed, kubelet, namespace, "NVIDIA-L20", {"one": 1, "two": 2})
    for name in ("two", "one"):
        change(installed, namespace, name)
    first = until(lambda: list(followers(installed, namespace, ["one", "two"])), 30, "one begins")
    (first,) = first
    (other,) = {"one", "two"} - {first}
    wait_for(installed, other, namespace, "Progressing", "True", "RolloutPending")
    settled(installed, operator, namespace)
    assert list(followers(installed, namespace, ["one", "two"])) == [first]
    assert answering(installed, namespace, other) == 1
    kubelet.mark_pods_ready(namespace, engines(first))
    until(lambda: len(followers(installed, namespace, ["one", "two"])) == 2, 40, "the other one's turn")
    kubelet.mark_pods_ready(namespace, engines(other))
    wait_for(installed, other, namespace, "Ready", "True", "Serving")


@pytest.mark.slow
def test_no_replica_ends_for_a_gpu_that_a_waiting_pod_would_take(installed, operator, namespace, kubelet):
    """An autoscaler that asks for more than there is: its pod would have the GPU first, and the service none."""
    kubelet.add_node("n5", gpus=2, product="NVIDIA-A16")
    serving(installed, kubelet, namespace, "NVIDIA-A16", {"edited": 1, "grows": 1})
    change(installed, namespace, "grows", replicas=2)
    until(lambda: len(kubelet.pods(namespace, engines("grows"))) == 2, 20, "a pod waits")
    wait_for(installed, "grows", namespace, "Progressing", "True", "NoFreeGpu")
    change(installed, namespace, "edited")
    wait_for(installed, "edited", namespace, "Progressing", "True", "RolloutPending")

    def waits_for_that_pod():
        return "the pod grows-" in conditions(installed, "edited", namespace)["Progressing"]["message"]

    until(waits_for_that_pod, 30, "the message names the pod")
    settled(installed, operator, namespace)
    assert not followers(installed, namespace, ["edited"])
    assert answering(installed, namespace, "edited") == 1
    change(installed, namespace, "grows", replicas=1)
    until(lambda: followers(installed, namespace, ["edited"]), 90, "nothing waits any more")


@pytest.mark.slow
def test_a_person_may_decide_that_a_change_does_not_wait_for_its_turn(installed, operator, namespace, kubelet):
    kubelet.add_node("n6", gpus=2, product="NVIDIA-A2")
    serving(installed, kubelet, namespace, "NVIDIA-A2", {"a": 1, "b": 1})
    change(installed, namespace, "a")
    until(lambda: followers(installed, namespace, ["a"]), 30, "a begins")
    change(installed, namespace, "b")
    wait_for(installed, "b", namespace, "Progressing", "True", "RolloutPending")
    change(installed, namespace, "b", rollout={"strategy": "InPlace"})
    until(lambda: followers(installed, namespace, ["b"]), 30, "b does not wait")


@pytest.mark.slow
def test_gpus_that_come_and_go_rewrite_no_idle_service(installed, operator, namespace, kubelet):
    """The course of a change is chosen when one begins; what others do meanwhile is no reason to write."""
    kubelet.add_node("n2", gpus=2, product="NVIDIA-L4")
    serve(installed, kubelet, namespace)
    settled(installed, operator, namespace)
    before = installed.api.get("apps/v1", "Deployment", "s", namespace)["metadata"]["generation"]
    lose_a_gpu(kubelet)
    labels = {"metadata": {"labels": {"seen": "yes"}}}
    installed.api.patch(API, LLMS, "s", namespace, labels)
    until(lambda: plan_of(installed, namespace)["rollout"] == "InPlace", 30, "the status tells what a change would be")
    settled(installed, operator, namespace)
    assert installed.api.get("apps/v1", "Deployment", "s", namespace)["metadata"]["generation"] == before
    edit(installed, namespace)
    until(
        lambda: installed.api.get("apps/v1", "Deployment", "s", namespace)["spec"]["strategy"]["type"] == "Recreate",
        30,
        "and the change is made so",
    )
