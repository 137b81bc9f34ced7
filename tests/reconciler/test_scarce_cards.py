"""Changes on scarce cards, with the real scheduler and the real Deployment controller: every edit goes through."""

from __future__ import annotations

from api_client import until
from operator_runs import API, conditions, service, settled, wait_for

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


def lose_a_card(kubelet):
    """As if somebody else had taken the second one."""
    amounts = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": "1"}
    kubelet.set_node_ready("n2", capacity=amounts, allocatable=amounts)


def replicas(plane, namespace):
    pods = plane.api.list("v1", "Pod", namespace, engines())
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in pods}


def test_a_surge_keeps_its_course_while_the_new_replica_loads(installed, operator, namespace, kubelet):
    """It has taken the card that was free: to choose anew would end the only replica that answers."""
    kubelet.add_node("n1", gpus=2, product="NVIDIA-L4")
    serve(installed, kubelet, namespace)
    assert plan_of(installed, namespace)["rollout"] == "Surge"
    edit(installed, namespace)
    until(lambda: list(replicas(installed, namespace).values()) == ["n1", "n1"], 30, "both have a card")
    said = "a change that is under way ends as it began"
    until(lambda: plan_of(installed, namespace)["rolloutReason"] == said, 30, said)
    assert plan_of(installed, namespace)["rollout"] == "Surge"
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True"


def test_a_surge_whose_card_was_taken_waits_and_then_the_old_replica_makes_way(installed, operator, namespace, kubelet):
    """Nobody tells when a minute is over: the operator looks again by itself. The outage is told before it happens."""
    kubelet.add_node("n2", gpus=2, product="NVIDIA-L4")
    serve(installed, kubelet, namespace, rollout={"strategy": "Surge"})
    lose_a_card(kubelet)
    (old,) = replicas(installed, namespace)
    edit(installed, namespace)
    until(lambda: len(replicas(installed, namespace)) == 2, 20, "the surge has begun")
    installed.api.patch(API, LLMS, "s", namespace, {"spec": {"rollout": {"strategy": "Auto"}}})
    until(
        lambda: any("an old one makes way, an outage" in each for each in plan_of(installed, namespace)["warnings"]),
        30,
        "the outage is told",
    )
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True"
    until(lambda: old not in replicas(installed, namespace), 150, "the old one makes way")
    kubelet.mark_pods_ready(namespace, engines())
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")


def test_of_services_that_are_edited_at_once_only_as_many_surge_as_cards_are_free(
    installed, operator, namespace, kubelet
):
    """A GitOps tool applies them in one second: all of them would count the same free card, and all but one wait."""
    product = {"products": ["NVIDIA-L40S"]}
    kubelet.add_node("n3", gpus=5, product="NVIDIA-L40S")
    names = [f"s{number}" for number in range(4)]
    for name in names:
        installed.api.create(service(name, namespace, accelerator=product))
    for name in names:
        kubelet.mark_pods_ready(namespace, engines(name))
    for name in names:
        wait_for(installed, name, namespace, "Ready", "True", "Serving")
    for name in names:
        installed.api.patch(API, LLMS, name, namespace, {"spec": {"engine": {"maxNumSeqs": 17}}})

    def followed():
        found = [installed.api.get("apps/v1", "Deployment", name, namespace) for name in names]
        words = [each["spec"]["template"]["spec"]["containers"][0]["args"] for each in found]
        return found if all("17" in each for each in words) else None

    deployments = until(followed, 30, "all follow the edit")
    surging = [each for each in deployments if each["spec"]["strategy"]["type"] == "RollingUpdate"]
    assert len(surging) == 1


def test_cards_that_come_and_go_rewrite_no_idle_service(installed, operator, namespace, kubelet):
    """How a change would be made is chosen when one begins; what others do meanwhile is no reason to write."""
    kubelet.add_node("n2", gpus=2, product="NVIDIA-L4")
    serve(installed, kubelet, namespace)
    settled(installed, operator, namespace)
    before = installed.api.get("apps/v1", "Deployment", "s", namespace)["metadata"]["generation"]
    lose_a_card(kubelet)
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
