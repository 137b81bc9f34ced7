"""Finds where a replica fits: on what nodes have, less what pods were promised. Pure.

It counts what decides in practice (readiness, taints, selectors, GPUs, CPU, memory), not all that the scheduler does:
where a pod waits for something else (affinity, spread, ports, a volume), the scheduler's own words decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from octavo_operator.api.conditions import condition_of, is_true
from octavo_operator.api.observed import Change, Gpu, Nodes, Object
from octavo_operator.planner.gpus import is_shared, of_node
from octavo_operator.planner.node_labels import matches
from octavo_operator.planner.plan import Hardware, Requirement
from octavo_operator.planner.rollout import PATIENCE_S
from octavo_operator.reconcile.capacity import ENDED, RULES_OUT, ClusterCapacity, NodeFacts, PodFacts, requests_of

REVISION = "pod-template-hash"
MOST_NAMED = 3  # nodes whose obstacles are named
HOSTNAME = "kubernetes.io/hostname"
COUNTED = "Insufficient "  # the scheduler's word for what is counted here
# The scheduler's words for what an old replica takes along when it ends.
FREED_BY_AN_END = (
    COUNTED,
    "anti-affinity",
    "cannot allocate all claims",
    "free ports",
    "in-use by another pod",
    "topology spread",
    "Too many pods",
)


def nodes_for(
    hardware: Hardware, template: Mapping[str, Any], capacity: ClusterCapacity, without: Collection[str] = ()
) -> Nodes:
    """GPUs that a further replica could have, with all pods but those of the uids in `without`.

    `template` is the manifest's own for its pods. What pods without a node are about to get is not free.
    """
    name = hardware.resource_name
    assert name is not None
    given: Mapping[str, Any] = template.get("spec") or {}
    spec = {field: given[field] for field in RULES_OUT if given.get(field)}
    found, suitable = capacity.of_nodes((hardware, repr(spec)), lambda: _suitable(hardware, spec, capacity.nodes))
    seats = capacity.of_all((name, frozenset(without)), lambda: _seats(name, capacity, without))
    free = max(((capacity.free(node, name, without) - seats.get(node.name, 0)) // 1000 for node in suitable), default=0)
    return replace(found, free=max(0, free))


def free_for(
    hardware: Hardware, template: Mapping[str, Any], capacity: ClusterCapacity, engines: Sequence[Object]
) -> int:
    """GPUs on one node that a further replica could have once those of `engines` that are ending have ended."""
    return nodes_for(hardware, template, capacity, ending(engines)).free


def are_counted(deployment: Object, engines: Sequence[Object], capacity: ClusterCapacity) -> bool:
    """True if all pods that the Deployment reports, the first one of its change included, are part of the capacity."""
    status = deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return False  # the status is of the former template
    left = [pod for pod in engines if pod.get("status", {}).get("phase") not in ENDED and not _is_ending(pod)]
    there = status.get("updatedReplicas", 0) > 0 and len(left) >= status.get("replicas", 0)
    return there and all(capacity.counts(_uid(pod)) for pod in left)


def _suitable(
    hardware: Hardware, spec: Mapping[str, Any], nodes: Iterable[NodeFacts]
) -> tuple[Nodes, tuple[NodeFacts, ...]]:
    """The report of `nodes_for` on nodes, whatever pods they have, and the nodes with GPUs that would do."""
    name = hardware.resource_name
    assert name is not None
    tolerations = [*spec.get("tolerations", ()), *hardware.tolerations]
    products: set[str] = set()
    gpus: set[Gpu] = set()
    shared: set[Gpu] = set()
    obstacles: list[str] = []
    unlabelled: list[str] = []
    suitable: list[NodeFacts] = []
    announced = False
    for node in nodes:
        count = node.allocatable.get(name, 0) // 1000
        if not count:
            continue
        gpu = of_node(node.labels, name)
        announced = True
        if gpu is not None:
            products.add(gpu.product)
        elif len(unlabelled) < MOST_NAMED:
            unlabelled.append(node.name)
        if not matches(hardware.selection, node.labels):
            if gpu is not None and is_shared(gpu):
                shared.add(gpu)
            continue
        if not _has_affinity(node, spec):
            continue
        if obstacle := _obstacle(node, spec.get("nodeSelector", {}), tolerations):
            if len(obstacles) < MOST_NAMED:
                obstacles.append(f"{node.name} {obstacle}")
            continue
        if gpu is not None:
            gpus.add(gpu)
        suitable.append(node)
    counts = {node.name: node.allocatable[name] // 1000 for node in suitable}
    hosts = [node.labels.get(HOSTNAME) for node in suitable if counts[node.name] >= hardware.gpus]
    found = Nodes(
        free=0,
        largest=max(counts.values(), default=0),
        products=tuple(sorted(products)),
        obstacles=() if suitable else tuple(obstacles),
        gpus=_in_order(gpus),
        announced=announced,
        names=tuple(sorted(host for host in hosts if host)),
        unlabelled=tuple(unlabelled),
        shared=_in_order(shared),
    )
    return found, tuple(suitable)


def _in_order(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=lambda gpu: (gpu.product, gpu.memory or 0)))


def _seats(name: str, capacity: ClusterCapacity, without: Collection[str]) -> dict[str, int]:
    """The amount of a resource that waiting pods are about to take, by node: each on the first node that takes it."""
    seats: dict[str, int] = {}
    have = capacity.of_nodes(name, lambda: [node for node in capacity.nodes if node.allocatable.get(name)])
    # Seats only grow: a node that had none for a pod has none for the next one like it, and a queue has many alike.
    candidates: defaultdict[tuple[int, str], list[NodeFacts]] = defaultdict(lambda: have[::-1])
    for pod in capacity.waiting:
        needed = pod.requests.get(name, 0)
        if not needed or pod.gated or pod.uid in without:
            continue
        left = candidates[needed, repr(pod.placement)]
        while left:
            node = left[-1]
            if capacity.free(node, name, without) - seats.get(node.name, 0) >= needed and _takes(node, pod.placement):
                seats[node.name] = seats.get(node.name, 0) + needed
                break
            left.pop()
    return seats


def is_under_way(deployment: Object) -> bool:
    """True while replicas differ from the Deployment's template; not whether they are ready."""
    status: Mapping[str, Any] = deployment.get("status", {})
    desired = int(deployment["spec"].get("replicas", 1))
    updated = int(status.get("updatedReplicas", 0))
    stale = int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 1))
    return desired > 0 and (stale or updated < desired or int(status.get("replicas", 0)) > updated)


def uids(pods: Iterable[Object]) -> list[str]:
    return [str(_uid(pod)) for pod in pods]


def most_asked(pods: Sequence[Object]) -> Mapping[str, int]:
    """Requests of the newest of them, as its successor will have, or nearly so; nothing where there is none."""
    return requests_of(pods[-1]) if pods else {}


def ending(own: Sequence[Object]) -> list[str]:
    """The uids of the pods that are about to end: a surge may wait for their GPUs."""
    return [_uid(pod) for pod in own if _is_ending(pod)]


def most_free(template: Mapping[str, Any], capacity: ClusterCapacity) -> dict[str, int]:
    """The largest rest of each resource on a node that would take such a pod; empty where none would."""
    spec: Mapping[str, Any] = template.get("spec") or {}
    would = [
        node
        for node in capacity.nodes
        if not _obstacle(node, spec.get("nodeSelector") or {}, spec.get("tolerations") or ())
    ]
    return {name: max(max(0, capacity.free(node, name)) for node in would) for name in ("cpu", "memory") if would}


def seekers(own: Sequence[Object]) -> list[Object]:
    """Replicas for which the scheduler has found no node; none while one is ending, which makes room."""
    if any(_is_ending(pod) for pod in own):
        return []
    return [pod for pod in own if _is_waiting(pod) and condition_of(pod, "PodScheduled").get("status") == "False"]


def change_of(
    deployment: Object,
    own: Sequence[Object],
    capacity: ClusterCapacity | None,
    now: datetime,
    exclusive: Collection[str] = (),
) -> Change:
    """The change that is under way. `capacity` is None where it is not known; `exclusive` has the claims that are on one
    node at a time."""
    surge = deployment["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 0)
    unready = int(deployment["spec"].get("replicas", 1)) - int(deployment.get("status", {}).get("readyReplicas", 0))
    surges = surge not in {0, "0", "0%"}
    taken_by = ""
    lost: list[tuple[Object, bool | None]] = []  # with whether it would be at home if old replicas ended
    for pod in seekers(own):
        fits, words = capacity is not None and _fits(pod, capacity), _words(pod)
        if fits and (not words or COUNTED in words or _waited(pod, now) < PATIENCE_S):
            continue  # the scheduler has not retried yet
        helps = not words or any(each in words for each in FREED_BY_AN_END)
        former = [each for each in own if _revision(each) != _revision(pod)]
        if capacity is None:
            lost.append((pod, None))
            continue
        helps = helps and _fits(pod, capacity, without=[_uid(each) for each in former])
        other = contender(requests_of(pod), former, own, capacity) if helps else None
        taken_by = taken_by or ("" if other is None else other.name)
        lost.append((pod, helps and other is None))
    for pod in own:
        holders = detained_by(pod, own, exclusive)
        if holders and not any(_is_ending(each) for each in holders):
            lost.append((pod, all(_revision(each) != _revision(pod) for each in holders)))
    # One that loads its model stands for the old one that made way for it: no further one does meanwhile.
    ours, newest = {_uid(pod) for pod, _ in lost}, {_revision(pod) for pod, _ in lost}
    unready -= sum(is_loading(pod) and _revision(pod) in newest and _uid(pod) not in ours for pod in own)
    if not lost:
        return Change(surges, max(0, unready))
    known = [helps for _, helps in lost if helps is not None]
    return Change(
        surges,
        max(0, unready),
        max(_waited(pod, now) for pod, _ in lost),
        any(known) if known else None,
        old_serves=any(is_true(pod, "Ready") and _revision(pod) not in newest for pod in own),
        contender=taken_by if not any(known) else "",
    )


def contender(
    needed: Mapping[str, int], old: Sequence[Object], own: Sequence[Object], capacity: ClusterCapacity
) -> PodFacts | None:
    """A pod that waits, and that would take the place of one of `old` if that one ended: a successor which asks for
    `needed` would find no room then. None where there is no such pod.

    `own` has the service's pods, which do not compete. One that any node could take at once is about to have it.
    """
    ours = {_uid(pod) for pod in own}
    places = {pod["spec"].get("nodeName"): _uid(pod) for pod in old if not _is_ending(pod)}
    nodes = [(node, [places[node.name]]) for node in capacity.nodes if node.name in places]
    passed_over: set[str] = set()
    for waiting in capacity.waiting:
        kind = repr((waiting.requests, waiting.placement))
        if waiting.gated or waiting.uid in ours or kind in passed_over:
            continue
        passed_over.add(kind)
        for node, without in nodes:
            asked = waiting.requests
            takes = capacity.has_capacity(node, asked, without) and _takes(node, waiting.placement)
            if not takes or all(
                capacity.free(node, name, without) - asked.get(name, 0) >= amount for name, amount in needed.items()
            ):
                continue
            if not any(
                capacity.has_capacity(each, asked) and _takes(each, waiting.placement) for each in capacity.nodes
            ):
                return waiting
    return None


def detained_by(pod: Object, pods: Iterable[Object], exclusive: Collection[str]) -> list[Object]:
    """The pods on other nodes that hold a volume which this one waits for: it can be on one node at a time."""
    node = pod["spec"].get("nodeName")
    if not node or _is_ending(pod) or not is_loading(pod) or _has_started(pod):
        return []
    wanted = claims_of(pod) & set(exclusive)
    return [
        each
        for each in pods
        if each["spec"].get("nodeName") not in {None, node}
        and each.get("status", {}).get("phase") not in ENDED
        and (_has_started(each) or _is_ending(each))
        and wanted & claims_of(each)
    ]


def _fits(pod: Object, capacity: ClusterCapacity, without: Collection[str] = ()) -> bool:
    """True if a node has what the pod requests, once the pods of `without` have ended."""
    spec = pod["spec"]
    needed = requests_of(pod)
    return any(capacity.has_capacity(node, needed, without) for node in capacity.nodes if _takes(node, spec))


def _takes(node: NodeFacts, spec: Mapping[str, Any]) -> bool:
    """True if nothing in a pod's spec rules the node out."""
    obstacle = _obstacle(node, spec.get("nodeSelector") or {}, spec.get("tolerations") or ())
    return not obstacle and _has_affinity(node, spec)


def _obstacle(node: NodeFacts, selector: Mapping[str, str], tolerations: Sequence[Mapping[str, Any]]) -> str:
    """The reason why a node takes no such pod; empty where it does."""
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


def _has_affinity(node: NodeFacts, spec: Mapping[str, Any]) -> bool:
    """True if the labels meet what the pod requires; by fields of a node, nothing is ruled out."""
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    terms = [
        tuple(Requirement(e["key"], e["operator"], tuple(e.get("values") or ())) for e in term["matchExpressions"])
        for term in (required or {}).get("nodeSelectorTerms") or ()
        if term.get("matchExpressions")
    ]
    return matches(terms, node.labels)


def _is_waiting(pod: Object) -> bool:
    """True if a pod waits for a node, and not for a controller that holds it back by a scheduling gate."""
    spec = pod["spec"]
    ended = pod.get("status", {}).get("phase") in ENDED
    return not (spec.get("nodeName") or spec.get("schedulingGates") or ended or _is_ending(pod))


def _waited(pod: Object, now: datetime) -> float:
    """Seconds since the scheduler has first found no node for it, or has found one."""
    since = condition_of(pod, "PodScheduled").get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    return 0.0 if since is None else max(0.0, (now - datetime.fromisoformat(str(since))).total_seconds())


def _words(pod: Object) -> str:
    """The scheduler's reason for finding no node, without its words on preemption."""
    return str(condition_of(pod, "PodScheduled").get("message") or "").partition("preemption:")[0]


def is_loading(pod: Object) -> bool:
    """True if a pod has a node and does not answer yet."""
    return bool(
        pod["spec"].get("nodeName")
        and not _is_ending(pod)
        and pod.get("status", {}).get("phase") not in ENDED
        and not is_true(pod, "Ready")
    )


def _has_started(pod: Object) -> bool:
    """Any of its containers has, so that its volumes are mounted."""
    status = pod.get("status", {})
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return any("running" in each.get("state", {}) or each.get("restartCount") for each in containers)


def has_not_started(pod: Object) -> bool:
    """True if a pod is not over, and none of its containers runs or has run."""
    return not (pod.get("status", {}).get("phase") in ENDED or _is_ending(pod) or _has_started(pod))


def claims_of(pod: Object) -> set[str]:
    """Names of the claims that a pod mounts."""
    volumes = pod["spec"].get("volumes", ())
    return {str(each["persistentVolumeClaim"]["claimName"]) for each in volumes if "persistentVolumeClaim" in each}


def _revision(pod: Object) -> Any:
    return pod["metadata"].get("labels", {}).get(REVISION)


def _is_ending(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _uid(pod: Object) -> Any:
    return pod["metadata"]["uid"]
