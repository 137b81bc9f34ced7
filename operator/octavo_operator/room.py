"""Where a replica has room: what nodes have, less what pods were promised. Pure.

It knows what decides in practice (readiness, taints, selectors, cards, CPU, memory), not all that the scheduler knows:
a surge that has no room after all is seen by its pod, which waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from octavo_operator.capacity import ClusterCapacity, NodeFacts, requests_of
from octavo_operator.observed import Change, Gpu, Nodes, Object
from octavo_operator.planner.gpus import of_node
from octavo_operator.planner.plan import Hardware

REVISION = "pod-template-hash"
TOLD = 3  # nodes whose obstacles are named


def nodes_for(
    hardware: Hardware, template: Mapping[str, Any], capacity: ClusterCapacity, without: Collection[str] = ()
) -> Nodes:
    """Cards that a further replica could have, beside all pods but those of the uids in `without`.

    `template` is the manifest's own for its pods.
    """
    name = hardware.resource_name
    assert name is not None
    spec: Mapping[str, Any] = template.get("spec") or {}
    tolerations = [*(spec.get("tolerations") or ()), *hardware.tolerations]
    free, largest, products, announced = 0, 0, set(), False
    obstacles: list[str] = []
    gpus: set[Gpu] = set()
    for node in capacity.nodes:
        count = node.allocatable.get(name, 0) // 1000
        product = node.labels.get(hardware.product_label or "")
        announced = announced or count > 0
        if count and product:
            products.add(product)
        if hardware.products and product not in hardware.products:
            continue
        if obstacle := _obstacle(node, spec.get("nodeSelector") or {}, tolerations):
            if count and len(obstacles) < TOLD:
                obstacles.append(f"{node.name} {obstacle}")
            continue
        if count and (gpu := of_node(node.labels)) is not None:
            gpus.add(gpu)
        largest = max(largest, count)
        free = max(free, capacity.free(node, name, without) // 1000)
    kinds = tuple(sorted(gpus, key=lambda gpu: (gpu.product, gpu.memory or 0)))
    return Nodes(free, largest, tuple(sorted(products)), tuple(obstacles) if not largest else (), kinds, announced)


def is_under_way(deployment: Object) -> bool:
    """Whether replicas still differ from the Deployment's template; not whether they are ready."""
    status: Mapping[str, Any] = deployment.get("status", {})
    wished = int(deployment["spec"].get("replicas", 1))
    updated = int(status.get("updatedReplicas", 0))
    stale = int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 1))
    return wished > 0 and (stale or updated < wished or int(status.get("replicas", 0)) > updated)


def ending(own: Sequence[Object]) -> list[str]:
    """The uids of the pods that are about to end: a surge may wait for their cards."""
    return [_uid(pod) for pod in own if _is_ending(pod)]


def seekers(own: Sequence[Object]) -> list[Object]:
    """Replicas that have no node, for want of room or of anything else; none while one is ending, which makes room."""
    if any(_is_ending(pod) for pod in own):
        return []
    return [pod for pod in own if _unscheduled(pod) is not None]


def change_of(deployment: Object, own: Sequence[Object], capacity: ClusterCapacity | None, now: datetime) -> Change:
    """The change that is under way. `capacity` is None where it is not known."""
    surge = deployment["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 0)
    unready = int(deployment["spec"].get("replicas", 1)) - int(deployment.get("status", {}).get("readyReplicas", 0))
    surges = surge not in {0, "0", "0%"}
    since, makes_room = None, False
    for pod in seekers(own):
        if capacity is not None and _fits(pod, capacity):
            continue  # the scheduler has not looked again yet
        began = datetime.fromisoformat(str(_unscheduled(pod)))
        since = began if since is None else min(since, began)
        former = [_uid(each) for each in own if _revision(each) != _revision(pod)]
        makes_room = makes_room or (capacity is not None and _fits(pod, capacity, without=former))
    if since is None:
        return Change(surges, max(0, unready))
    waited = max(0.0, (now - since).total_seconds())
    return Change(surges, max(0, unready), waited, None if capacity is None else makes_room)


def _fits(pod: Object, capacity: ClusterCapacity, without: Collection[str] = ()) -> bool:
    """Whether a node has what the pod asks for, once the pods of `without` have ended."""
    spec = pod["spec"]
    needed = requests_of(pod)
    return any(
        capacity.has_room(node, needed, without)
        for node in capacity.nodes
        if _would_do(node, spec.get("nodeSelector") or {}, spec.get("tolerations") or ()) and _has_product(node, spec)
    )


def _would_do(node: NodeFacts, selector: Mapping[str, str], tolerations: Sequence[Mapping[str, Any]]) -> bool:
    return not _obstacle(node, selector, tolerations)


def _obstacle(node: NodeFacts, selector: Mapping[str, str], tolerations: Sequence[Mapping[str, Any]]) -> str:
    """Why a node takes no such pod; empty where it does."""
    if not node.ready:
        return "is not ready"
    if not node.schedulable:
        return "is cordoned"
    if not selector.items() <= node.labels.items():
        missing = sorted(f"{key}={value}" for key, value in selector.items() if node.labels.get(key) != value)
        return f"lacks the label {missing[0]}"
    for taint in node.taints:
        if taint["effect"] == "PreferNoSchedule":
            continue
        if not any(_tolerates(toleration, taint) for toleration in tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"has the taint {taint['key']}{value}:{taint['effect']}"
    return ""


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in {None, "", taint["key"]}
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))


def _has_product(node: NodeFacts, spec: Mapping[str, Any]) -> bool:
    """By the node affinity that we render ourselves: one term, values of a label."""
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = (required or {}).get("nodeSelectorTerms", ())
    labels = node.labels
    return not terms or any(
        all(e["operator"] != "In" or labels.get(e["key"]) in e["values"] for e in term.get("matchExpressions", ()))
        for term in terms
    )


def _unscheduled(pod: Object) -> str | None:
    """Since when the scheduler has found no node for it, as RFC 3339."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and not _is_ending(pod):
            return str(condition.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])
    return None


def _revision(pod: Object) -> Any:
    return pod["metadata"].get("labels", {}).get(REVISION)


def _is_ending(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _uid(pod: Object) -> Any:
    return pod["metadata"]["uid"]
