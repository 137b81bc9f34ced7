"""Where a replica has room: what nodes have, less what pods were promised. Pure: lists of nodes and pods in.

It knows what decides in practice (readiness, taints, selectors, cards, CPU, memory), not all that the scheduler knows:
a surge that has no room after all is seen by its pod, which waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

from octavo_operator.api.quantity import Quantity
from octavo_operator.observed import Change, Nodes, Object
from octavo_operator.planner.plan import Hardware

Amounts = dict[str, Fraction]
ENDED = {"Succeeded", "Failed"}
REVISION = "pod-template-hash"


def nodes_for(
    hardware: Hardware, template: Mapping[str, Any], nodes: Sequence[Object], pods: Sequence[Object]
) -> Nodes:
    """Cards that a further replica could have, beside all of `pods`; `template` is the manifest's own for its pods."""
    name = hardware.resource_name
    assert name is not None
    taken = _promised(pods)
    spec: Mapping[str, Any] = template.get("spec") or {}
    tolerations = [*(spec.get("tolerations") or ()), {"key": name, "operator": "Exists"}]
    free, largest, products = 0, 0, set()
    for node in nodes:
        count = int(_amounts(node.get("status", {}).get("allocatable", {})).get(name, 0))
        product = node["metadata"].get("labels", {}).get(hardware.product_label)
        if count and product:
            products.add(product)
        if hardware.products and product not in hardware.products:
            continue
        if not _would_do(node, spec.get("nodeSelector") or {}, tolerations):
            continue
        largest = max(largest, count)
        free = max(free, count - int(taken.get(node["metadata"]["name"], {}).get(name, 0)))
    return Nodes(free, largest, tuple(sorted(products)))


def is_under_way(deployment: Object) -> bool:
    """Whether replicas still differ from the Deployment's template; not whether they are ready."""
    status: Mapping[str, Any] = deployment.get("status", {})
    wished = int(deployment["spec"].get("replicas", 1))
    updated = int(status.get("updatedReplicas", 0))
    stale = int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 1))
    return wished > 0 and (stale or updated < wished or int(status.get("replicas", 0)) > updated)


def staying(pods: Sequence[Object], own: Sequence[Object]) -> list[Object]:
    """Those of `pods` that are not own ones about to end: a surge may wait for their cards."""
    ending = {_uid(pod) for pod in own if _is_ending(pod)}
    return [pod for pod in pods if _uid(pod) not in ending]


def seekers(own: Sequence[Object]) -> list[Object]:
    """Replicas that have no node, for want of room or of anything else; none while one is ending, which makes room."""
    if any(_is_ending(pod) for pod in own):
        return []
    return [pod for pod in own if _unscheduled(pod) is not None]


def change_of(
    deployment: Object, own: Sequence[Object], nodes: Sequence[Object], pods: Sequence[Object], now: datetime
) -> Change:
    """The change that is under way. `nodes` and `pods` are empty where nobody may look at them."""
    surge = deployment["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 0)
    unready = int(deployment["spec"].get("replicas", 1)) - int(deployment.get("status", {}).get("readyReplicas", 0))
    surges = surge not in {0, "0", "0%"}
    since, makes_room = None, False
    for pod in seekers(own):
        if _fits(pod, nodes, pods, without=[]):
            continue  # the scheduler has not looked again yet
        began = datetime.fromisoformat(str(_unscheduled(pod)))
        since = began if since is None else min(since, began)
        former = [each for each in own if _revision(each) != _revision(pod)]
        makes_room = makes_room or _fits(pod, nodes, pods, without=former)
    if since is None:
        return Change(surges, max(0, unready))
    return Change(surges, max(0, unready), max(0.0, (now - since).total_seconds()), makes_room if nodes else None)


def _fits(pod: Object, nodes: Sequence[Object], pods: Sequence[Object], without: Sequence[Object]) -> bool:
    """Whether a node has what the pod asks for, once the pods of `without` have ended."""
    spec = pod["spec"]
    needed = _requests(pod)
    ended = {_uid(each) for each in without}
    taken = _promised(each for each in pods if _uid(each) not in ended)
    for node in nodes:
        if not _would_do(node, spec.get("nodeSelector") or {}, spec.get("tolerations") or ()):
            continue
        if not _has_product(node, spec):
            continue
        has = _amounts(node.get("status", {}).get("allocatable", {}))
        had = taken.get(node["metadata"]["name"], {})
        if all(has.get(name, 0) - had.get(name, 0) >= amount for name, amount in needed.items() if amount):
            return True
    return False


def _promised(pods: Iterable[Object]) -> dict[str, Amounts]:
    """What pods of each node were promised."""
    taken: dict[str, Amounts] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if not node or pod.get("status", {}).get("phase") in ENDED:
            continue
        sums = taken.setdefault(node, {"pods": Fraction(0)})
        sums["pods"] += 1
        for name, amount in _requests(pod).items():
            if name != "pods":
                sums[name] = sums.get(name, Fraction(0)) + amount
    return taken


def _requests(pod: Object) -> Amounts:
    """As the scheduler counts: all containers together, or the largest of those that run before them."""
    sums: Amounts = {"pods": Fraction(1)}
    for container in pod["spec"].get("containers", ()):
        for name, amount in _of(container).items():
            sums[name] = sums.get(name, Fraction(0)) + amount
    for container in pod["spec"].get("initContainers", ()):
        for name, amount in _of(container).items():
            beside = sums.get(name, Fraction(0))
            sums[name] = beside + amount if container.get("restartPolicy") == "Always" else max(beside, amount)
    for name, amount in _amounts(pod["spec"].get("overhead", {})).items():
        sums[name] = sums.get(name, Fraction(0)) + amount
    return sums


def _of(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources", {})
    return _amounts({**resources.get("limits", {}), **resources.get("requests", {})})


def _amounts(quantities: Mapping[str, Any]) -> Amounts:
    return {name: Quantity(str(text)).value for name, text in quantities.items()}


def _would_do(node: Object, selector: Mapping[str, str], tolerations: Sequence[Mapping[str, Any]]) -> bool:
    labels = node["metadata"].get("labels", {})
    conditions = node.get("status", {}).get("conditions", ())
    if any(each["type"] == "Ready" and each["status"] != "True" for each in conditions):
        return False
    if node["spec"].get("unschedulable") or not selector.items() <= labels.items():
        return False
    taints = [taint for taint in node["spec"].get("taints", ()) if taint["effect"] != "PreferNoSchedule"]
    return all(any(_tolerates(toleration, taint) for toleration in tolerations) for taint in taints)


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in {None, "", taint["key"]}
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))


def _has_product(node: Object, spec: Mapping[str, Any]) -> bool:
    """By the node affinity that we render ourselves: one term, values of a label."""
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = (required or {}).get("nodeSelectorTerms", ())
    labels = node["metadata"].get("labels", {})
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
