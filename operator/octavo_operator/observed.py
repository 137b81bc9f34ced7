"""What is known of the world when a plan is made. A frozen snapshot: the planner never looks for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo_models import ModelSpec

Object = Mapping[str, Any]
Capability = tuple[int, int]  # compute capability, such as (8, 0)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU."""

    product: str
    """As in the node label nvidia.com/gpu.product."""
    memory: int | None
    """Bytes that CUDA has."""
    capability: Capability | None


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes with cards, as they are now."""

    free: int
    """Cards that are free on the node that has most of them, among those that would do."""
    largest: int
    """Cards that the largest of the nodes that would do has in all."""
    products: tuple[str, ...] = ()
    """Products that nodes have, whether they would do or not."""
    obstacles: tuple[str, ...] = ()
    """Where none would do: why some that have the GPUs do not, a node each."""
    gpus: tuple[Gpu, ...] = ()
    """Kinds of GPUs on the nodes that would do."""
    announced: bool = True
    """Some node announces the resource that counts the GPUs: its device plugin runs."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """The last Warning that a controller or a kubelet has posted about an object."""

    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is on its way to the replicas, as the Deployment carries it out."""

    surges: bool
    """A new replica starts before an old one ends."""
    unready: int = 0
    """Wished-for replicas that do not answer."""
    homeless_s: float | None = None
    """Seconds for which a new replica has found no node, with nothing about to end that would make room for it."""
    old_makes_room: bool | None = None
    """Such a replica would have a node if old replicas ended; None where nobody may look."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything may be unknown; the plan then says so, and blocks nothing on that account."""

    model: ModelSpec | None = None
    """The model's description."""
    why_unknown: str = "its description is not at hand"
    """Where `model` is None: why, as half a sentence."""
    free_cards: int | None = None
    """Cards that are free on nodes that would do; None where nobody looked."""
    serving: bool = False
    """Replicas of this service run already: a service that runs keeps its children."""
    service_monitors: bool | None = None
    """The cluster knows ServiceMonitors; None where nobody looked."""
    claim_access_mode: str | None = None
    """Of the model's claim, where it exists: a claim keeps its mode, whatever would be chosen today."""
    claim_size: str | None = None
    """Of the model's claim, where it exists: what it has room for, whatever would be asked for today."""
    claim_waits: bool = False
    """The model's claim has no volume yet."""
    claim_words: str = ""
    """Where it waits: what the storage's controllers say about it, if they complain."""
    children: tuple[Object, ...] = ()
    """Objects with the service's labels, as the API server has them."""
    pods: tuple[Object, ...] = ()
    """Pods of replicas and of the download."""
    nodes: Nodes | None = None
    """None where nobody looked, or nobody may."""
    model_bytes: int | None = None
    """Size of the model's files, where only that is known."""
    change: Change | None = None
    """None where all replicas follow the Deployment."""

    def child(self, kind: str, name: str) -> Object | None:
        """One of the children, if it is there."""
        for each in self.children:
            if each["kind"] == kind and each["metadata"]["name"] == name:
                return each
        return None
