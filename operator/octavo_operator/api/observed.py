"""A frozen snapshot of all that one reconcile, or a verb, has read of the cluster, from which the planner plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from octavo_models import ModelSpec
from octavo_operator.api.labels import COMPONENT, ENGINE

Object = Mapping[str, Any]
Capability = tuple[int, int]  # compute capability, such as (8, 0)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU."""

    product: str
    """The value of the node label nvidia.com/gpu.product."""
    memory: int | None
    """Bytes that CUDA has, a pod's share of them where several share the GPU."""
    capability: Capability | None
    shares: int = 1
    """Pods that take turns on it (time-slicing, MPS)."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes with GPUs, as they are now."""

    free: int
    """GPUs that are free on the node that has most of them, among those that would do."""
    largest: int
    """GPUs that the largest of the nodes that would do has in all."""
    products: tuple[str, ...] = ()
    """Products that nodes have, whether they would do or not."""
    obstacles: tuple[str, ...] = ()
    """The reasons why nodes that have the GPUs do not do, a node each, where none would."""
    gpus: tuple[Gpu, ...] = ()
    """Kinds of GPUs on the nodes that would do."""
    announced: bool = True
    """Some node announces the resource that counts the GPUs: its device plugin runs."""
    unlabelled: tuple[str, ...] = ()
    """Some nodes that have GPUs and no label that names the product."""
    shared: tuple[Gpu, ...] = ()
    """Kinds of GPUs that pods share, on nodes that would not do."""
    names: tuple[str, ...] = ()
    """Host names of the nodes that have enough GPUs for a replica and would do, be they free or not."""


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """The last Warning that a controller or a kubelet has posted about an object."""

    reason: str
    note: str
    node_comes: bool = False
    """An autoscaler has announced a node for the pod."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is on its way to the replicas, as the Deployment carries it out."""

    surges: bool
    """A new replica starts before an old one ends."""
    unready: int = 0
    """Desired replicas that do not answer, and that no node is about to make answer: a new one that has a node and
    loads its model is not among them."""
    unplaced_s: float | None = None
    """Seconds for which a new replica has found no node, with nothing about to end that would make room for it."""
    old_makes_way: bool | None = None
    """Such a replica would have a node if old replicas ended; None where nodes may not be read."""
    old_serves: bool = True
    """A replica of the former revision answers: it is worth some patience."""
    contender: str = ""
    """Another pod that waits for a node and would take what an old replica frees; empty where none would."""
    node_comes: bool = False
    """An autoscaler has announced a node for such a replica."""


@dataclass(frozen=True, slots=True)
class Download:
    """A model that is complete on a claim."""

    digest: str
    """The download's identity: model, revision, file and claim."""
    claim: str
    claim_uid: str
    commit: str | None = None
    size: int | None = None
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Any part may be unknown; the plan then states it, and blocks nothing on that account."""

    model: ModelSpec | None = None
    """The model's description."""
    why_unknown: str = "its description is not at hand"
    """Half a sentence with the reason why `model` is None."""
    undescribed: str = ""
    """The part of the config that octavo_models does not describe and transformers may compute, where `model` is None."""
    free_gpus: int | None = None
    """GPUs that are free on nodes that would do; None where nodes were not read."""
    serving: bool = False
    """Replicas of this service answer, and stay what they are: a service that runs keeps its children."""
    service_monitors: bool | None = None
    """The cluster serves ServiceMonitors; None where that was not read."""
    claim_waits: bool = False
    """The model's claim has no volume yet."""
    claim_message: str = ""
    """While it waits: the warning of the storage's controllers, if there is one."""
    claims: tuple[Object, ...] = ()
    """Claims that the manifest refers to and that are not among the children."""
    downloaded: Download | None = None
    """The last download that the service's status remembers."""
    contender: str = ""
    """Another pod that waits for a GPU and would take the one that a replica frees; empty where none would."""
    job_waits: bool = False
    """The download goes on and has no pod; no watch reports when that changes."""
    job_message: str = ""
    """While it waits: why the Job's controller could not create a pod."""
    autoscaler: str | None = None
    """The HorizontalPodAutoscaler that targets the Deployment, ours or another's."""
    children: tuple[Object, ...] = ()
    """Objects with the service's labels, as the API server has them."""
    pods: tuple[Object, ...] = ()
    """Pods of replicas and of the download."""
    warning_events: Mapping[str, WarningEvent] = field(default_factory=dict)
    """About pods that have not started, by their UID."""
    now: datetime | None = None
    """The API server's time; None where there is none."""
    holders: tuple[Object, ...] = ()
    """Others' pods that have one of `claims` which is on one node at a time."""
    nodes: Nodes | None = None
    """The nodes; None where they were not read, or may not be."""
    most_free: Mapping[str, int] = field(default_factory=dict)
    """CPU and memory that the node with most of each has left, in thousandths; empty where no replica seeks a node."""
    model_bytes: int | None = None
    """Size of the model's files, where only that is known."""
    change: Change | None = None
    """The change that is under way; None where all replicas follow the Deployment."""

    @property
    def engines(self) -> list[Object]:
        """The pods that serve, or are to; not the download's."""
        return [pod for pod in self.pods if pod["metadata"]["labels"].get(COMPONENT) == ENGINE]

    def child(self, kind: str, name: str) -> Object | None:
        """A child by kind and name; None where it does not exist."""
        for each in self.children:
            if each["kind"] == kind and each["metadata"]["name"] == name:
                return each
        return None

    def claim(self, name: str) -> Object | None:
        """A claim, the service's own or one that its manifest refers to."""
        for each in (*self.children, *self.claims):
            if each["kind"] == "PersistentVolumeClaim" and each["metadata"]["name"] == name:
                return each
        return None
