"""The capacity of nodes and the requests of pods, trimmed to what planning reads. Pure: no clock, no network.

Keeps of a node its name, labels, taints, readiness and allocatable amounts; of a pod its node, its requests and the
service that it belongs to. Sums per node are kept, so that one look costs time by nodes, never by pods. How it is kept
current is `capacity_feed.py`'s.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from octavo_operator.api.conditions import condition_of
from octavo_operator.api.labels import SERVICE
from octavo_operator.api.observed import Object
from octavo_operator.api.quantity import Quantity

Amounts = Mapping[str, int]
"""Resources by name, in thousandths of their unit."""
ENDED = {"Succeeded", "Failed"}
MOST_KEPT = 100  # kinds of services whose results are kept
RULES_OUT = ("nodeSelector", "tolerations", "affinity")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The facts about a Node that planning reads."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    allocatable: Amounts
    ready: bool
    schedulable: bool


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The facts about a Pod that has not ended that planning reads."""

    uid: str
    node: str
    """Empty until it is scheduled."""
    requests: Amounts
    service: tuple[str, str] | None
    """Namespace and name of the LLMService that it belongs to, if any."""
    gated: bool
    """A scheduling gate holds it back: it does not wait for capacity."""
    placement: Mapping[str, Any]
    """Fields of the spec that rule nodes out, for a pod without a node. Empty once it has one."""
    name: str = ""
    """Namespace and name of a pod without a node. Empty once it has one."""


class ClusterCapacity:
    """All nodes and pods of a cluster. Only its feed changes it."""

    def __init__(self, nodes: Iterable[Object] = (), pods: Iterable[Object] = ()) -> None:
        self._nodes: dict[str, NodeFacts] = {}
        self._pods: dict[str, PodFacts] = {}
        self._waiting: dict[str, PodFacts] = {}
        self._promised: dict[str, dict[str, int]] = {}
        self._of_nodes: dict[Hashable, Any] = {}
        self._of_all: dict[Hashable, Any] = {}
        for node in nodes:
            self.keep_node(node_facts(node))
        for pod in pods:
            if (facts := pod_facts(pod)) is not None:
                self.keep_pod(facts)

    @property
    def nodes(self) -> Collection[NodeFacts]:
        return self._nodes.values()

    @property
    def waiting(self) -> Collection[PodFacts]:
        """The pods that have no node yet."""
        return self._waiting.values()

    def counts(self, uid: str) -> bool:
        """True if this pod's requests are among what pods were promised, or wait to be."""
        return uid in self._pods

    def free(self, node: NodeFacts, name: str, without: Collection[str] = ()) -> int:
        """The rest of one resource of a node, in thousandths, once the pods of the uids in `without` have ended."""
        taken = self._promised.get(node.name, {}).get(name, 0)
        for uid in without:
            pod = self._pods.get(uid)
            if pod is not None and pod.node == node.name:
                taken -= pod.requests.get(name, 0)
        return node.allocatable.get(name, 0) - taken

    def has_capacity(self, node: NodeFacts, requests: Amounts, without: Collection[str] = ()) -> bool:
        """True if a pod with these requests fits on the node."""
        return all(self.free(node, name, without) >= amount for name, amount in requests.items() if amount)

    def of_nodes(self, key: Hashable, found: Callable[[], T]) -> T:
        """A value that follows from the nodes alone, found once for each key until a node changes."""
        return _kept(self._of_nodes, key, found)

    def of_all(self, key: Hashable, found: Callable[[], T]) -> T:
        """A value that follows from nodes and pods, found once for each key until one of them changes."""
        return _kept(self._of_all, key, found)

    def keep_node(self, facts: NodeFacts) -> None:
        self._nodes[facts.name] = facts
        self._nodes_changed()

    def forget_node(self, name: str) -> None:
        self._nodes.pop(name, None)
        self._nodes_changed()

    def keep_pod(self, facts: PodFacts) -> None:
        self.forget_pod(facts.uid)
        self._of_all.clear()
        self._pods[facts.uid] = facts
        if not facts.node:
            self._waiting[facts.uid] = facts
            return
        sums = self._promised.setdefault(facts.node, {})
        for name, amount in facts.requests.items():
            sums[name] = sums.get(name, 0) + amount

    def forget_pod(self, uid: str) -> None:
        former = self._pods.pop(uid, None)
        if former is None:
            return
        self._of_all.clear()
        self._waiting.pop(uid, None)
        if former.node:
            sums = self._promised[former.node]
            for name, amount in former.requests.items():
                sums[name] -= amount
            if not sums.get("pods"):
                del self._promised[former.node]

    def _nodes_changed(self) -> None:
        self._of_nodes.clear()
        self._of_all.clear()


def _kept(results: dict[Hashable, Any], key: Hashable, found: Callable[[], T]) -> T:
    if key not in results:
        if len(results) >= MOST_KEPT:
            results.clear()
        results[key] = found()
    result: T = results[key]
    return result


def node_facts(node: Object) -> NodeFacts:
    """A Node, trimmed."""
    metadata, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    return NodeFacts(
        name=sys.intern(metadata["name"]),
        labels={sys.intern(key): sys.intern(value) for key, value in metadata.get("labels", {}).items()},
        taints=tuple({key: str(value) for key, value in taint.items()} for taint in spec.get("taints", ())),
        allocatable=_amounts(status.get("allocatable", {})),
        ready=condition_of(node, "Ready").get("status", "True") == "True",
        schedulable=not spec.get("unschedulable"),
    )


def pod_facts(pod: Object) -> PodFacts | None:
    """A Pod, trimmed; None once it has ended, for then it holds nothing."""
    metadata, spec = pod["metadata"], pod["spec"]
    if pod.get("status", {}).get("phase") in ENDED:
        return None
    service = metadata.get("labels", {}).get(SERVICE)
    return PodFacts(
        uid=metadata["uid"],
        node=sys.intern(spec.get("nodeName") or ""),
        requests=requests_of(pod),
        service=None if service is None else (metadata.get("namespace", ""), service),
        gated=bool(spec.get("schedulingGates")),
        placement={} if spec.get("nodeName") else {name: spec[name] for name in RULES_OUT if name in spec},
        name="" if spec.get("nodeName") else f"{metadata.get('namespace', '')}/{metadata.get('name', '')}",
    )


def requests_of(pod: Object) -> Amounts:
    """The requests that the scheduler counts: the pod's own, or else all containers together, or the largest of those
    that
    run before them."""
    spec = pod["spec"]
    sums = {"pods": 1000}
    for container in spec.get("containers", ()):
        for name, amount in _of(container).items():
            sums[name] = sums.get(name, 0) + amount
    before: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.get("initContainers", ()):
        restarts = container.get("restartPolicy") == "Always"
        for name, amount in _of(container).items():
            if restarts:
                sidecars[name] = sidecars.get(name, 0) + amount
            # An init container runs in parallel to the sidecars that were started before it.
            here = sidecars.get(name, 0) + (0 if restarts else amount)
            before[name] = max(before.get(name, 0), here)
    for name in before.keys() | sidecars.keys():
        sums[name] = max(sums.get(name, 0) + sidecars.get(name, 0), before.get(name, 0))
    sums |= _of(spec)  # a pod's own requests stand in place of its containers'
    for name, amount in _amounts(spec.get("overhead", {})).items():
        sums[name] = sums.get(name, 0) + amount
    return _shared(tuple(sorted(sums.items())))


def _of(requester: Mapping[str, Any]) -> Amounts:
    """The requests of a container, or a pod spec's own; a limit stands for a request that is missing."""
    resources = requester.get("resources", {})
    return _amounts({**resources.get("limits", {}), **resources.get("requests", {})})


def _amounts(quantities: Mapping[str, Any]) -> Amounts:
    return {sys.intern(name): _thousandths(str(text)) for name, text in quantities.items()}


@lru_cache(maxsize=4096)
def _thousandths(text: str) -> int:
    return math.ceil(Quantity(text).value * 1000)


@lru_cache(maxsize=4096)
def _shared(amounts: tuple[tuple[str, int], ...]) -> Amounts:
    """Replicas of one workload share their requests: a cluster has few kinds of pods."""
    return dict(amounts)
