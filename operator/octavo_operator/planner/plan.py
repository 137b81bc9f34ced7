"""A plan and its parts: plain values, enough to render Kubernetes objects or to start local processes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from octavo_operator.api.reasons import FitReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.runtimes import RUNTIMES
from octavo_operator.runtimes.runtime import Target


@dataclass(frozen=True, slots=True)
class GpuBudget:
    """The division of one GPU's memory, in bytes. On a CPU the container's memory takes its place."""

    capacity: int
    usable: int  # capacity × gpuMemoryUtilization
    weights: int
    overhead: int  # context, workspace, activations of one step
    kv_per_sequence: int  # one sequence of maxModelLen tokens
    kv_once: int  # KV blocks that must be there, whichever sequence runs
    error: int = 0  # by which overhead may be more or less
    product: str | None = None
    shares: int = 1  # pods that take turns on the GPU; `capacity` is what one may have

    @property
    def kv(self) -> int:
        """The bytes that are left for KV blocks; negative where even the weights do not fit."""
        return self.usable - self.weights - self.overhead

    @property
    def kept_free(self) -> int:
        return self.capacity - self.usable

    @property
    def sequences(self) -> int:
        """Sequences of maxModelLen tokens that fit at once."""
        return self._sequences(self.kv)

    @property
    def sequences_within_error(self) -> tuple[int, int]:
        """The fewest and the most."""
        return self._sequences(self.kv - self.error), self._sequences(self.kv + self.error)

    def _sequences(self, kv: int) -> int:
        return max(0, (kv - self.kv_once) // self.kv_per_sequence) if self.kv_per_sequence else 0


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict on whether the model fits its GPUs, as the condition `Fits` reports it."""

    state: Literal["True", "False", "Unknown"]
    reason: FitReason
    message: str
    remedy: str | None = None
    budget: GpuBudget | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's limits, resolved: None only where the model is unknown and the manifest silent."""

    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_format: str  # a key of octavo_models.formats.FORMATS
    kv_cache_bytes: int | None  # for a CPU; on a GPU it follows from its memory
    request_bytes: int = 0  # for a CPU: host memory kept for the largest requests
    shortened: bool = False  # `max_model_len` is less than the model's own, for lack of memory


@dataclass(frozen=True, slots=True)
class Env:
    """An environment variable: a value, or Kubernetes' `valueFrom`."""

    name: str
    value: str | None = None
    value_from: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of the PEM files that the engine serves HTTPS with, as its flags name them."""

    certificate: str
    key: str | None  # None: in `certificate`


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """The process that runs in the container. Its address and the places of its files are arguments of `line`."""

    runtime: str
    image: str
    model: str  # as the engine takes it
    chat_template: str | None  # path of the template within the container, or a built-in one's name
    arguments: tuple[str, ...]  # all others
    env: tuple[Env, ...]
    port: int  # the container's; the Service maps its own onto it
    tls: Tls | None = None  # None: plain HTTP

    @property
    def scheme(self) -> Literal["http", "https"]:
        return "http" if self.tls is None else "https"

    def line(
        self, host: str | None, port: int, *, model: str | None = None, chat_template: str | None = None
    ) -> tuple[str, ...]:
        """The whole command line behind the program's name; what is given replaces the container's paths."""
        target = Target(model or self.model, host, port, chat_template or self.chat_template)
        return (*RUNTIMES[self.runtime].target(target), *self.arguments)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A requirement on a node's label, as in a node affinity's `matchExpressions`."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: tuple[str, ...] = ()


Term = tuple[Requirement, ...]
"""Requirements that a node must meet all."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The GPUs of one replica."""

    vendor: Literal["nvidia", "cpu"]
    gpus: int  # tensor × pipeline; 0 on a CPU
    resource_name: str | None
    products: tuple[str, ...]
    selection: tuple[Term, ...] = ()  # of which a node must meet one; any node will do where there is none
    product_label: str | None = None  # the manifest's own: products are its values

    @property
    def tolerations(self) -> tuple[dict[str, str], ...]:
        """Tolerations of the taints, of any effect, that keep other pods off GPU nodes.

        A slice's node (MIG) has the taint of the whole GPU. `sku=gpu` is what AKS' documentation uses.
        """
        if self.resource_name is None:
            return ()
        whole = ["nvidia.com/gpu"] if self.resource_name.startswith("nvidia.com/") else []
        keys = dict.fromkeys([self.resource_name, *whole])
        azure = {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
        return (*({"key": key, "operator": "Exists"} for key in keys), azure)


@dataclass(frozen=True, slots=True)
class ContainerResources:
    """Quantities as text, as Kubernetes takes them."""

    requests: dict[str, str]
    limits: dict[str, str]
    shared_memory: str


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The volume that keeps the model."""

    claim: str
    create: bool
    size: str | None  # of a claim that is created
    storage_class: str | None
    access_mode: str
    preload: bool
    retain: bool
    colocated: bool  # one node at a time may mount it: replicas share that node
    nodes: tuple[str, ...] = ()  # host names of the nodes where replicas can run, for what fills the volume


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP probe; seconds."""

    path: str
    period: int
    timeout: int
    failures: int

    @property
    def budget(self) -> int:
        return self.period * self.failures


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A replica's times from start to end, one chain: grace = pre-stop + drain + margin."""

    expected: int  # seconds until it serves, by the model's size
    startup: Probe
    readiness: Probe
    liveness: Probe
    pre_stop: int  # until endpoints and proxies have forgotten the replica
    drain: int  # what the engine is given to finish its requests
    grace: int  # Kubernetes' terminationGracePeriodSeconds


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The rollout of a change to the replicas."""

    strategy: Literal["Surge", "InPlace"]
    max_surge: int
    max_unavailable: int
    recreate: bool  # Kubernetes' Recreate: all old ones end before a new one starts
    reason: str
    waits: bool = False  # for a node, and for a limited time: to be reconciled again
    momentary: bool = False  # by the GPUs that are free now: valid for a change that begins now
    patience: int = 60  # seconds before an old replica is ended for one that waits for a node
    held: str = ""  # why a change does not begin yet, though replicas are to be replaced


@dataclass(frozen=True, slots=True)
class Scale:
    """The number of replicas. `replicas` is None under autoscaling, which decides."""

    replicas: int | None
    minimum: int
    maximum: int
    target_queue_depth: int | None
    metrics: tuple[dict[str, Any], ...] = ()
    behavior: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PodPlan:
    """The parts of a pod beside its engine: sources of files, and the manifest's own template."""

    pull_policy: str | None = None
    pull_secrets: tuple[str, ...] = ()
    chat_template: tuple[str, str] | None = None  # ConfigMap and key
    api_keys: tuple[str, str] | None = None  # Secret and key of what is mounted as a file
    model_claim: str | None = None  # a claim that holds the model, of pvc://
    assigned_user: bool = False  # by the platform: none is named
    exclusive: tuple[str, ...] = ()  # claims that are on one node at a time: the replicas share that node
    template: dict[str, Any] = field(default_factory=dict)  # merged last


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The peers that may connect: the manifest's, or else the namespace; and the operator, which reads the queue."""

    allow_from: tuple[dict[str, Any], ...]
    operator_namespace: str
    monitoring_namespace: str | None = None
    """Namespace of the Prometheus that scrapes the replicas."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Labels and annotations that the manifest gives a child, in addition to our own."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Child:
    """An object that the service has, and a few words about it for a person."""

    kind: str
    name: str
    detail: str
    certain: bool = True
    """False where it depends on what the cluster serves, which is not known: it is not rendered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that follows from a manifest and from what is known. Pure data: the same input gives the same plan."""

    name: str
    namespace: str
    model_uri: str
    model_summary: str
    served_names: tuple[str, ...]
    fit: Fit
    refusal: Refusal | None
    limits: Limits
    engine: EngineProcess
    hardware: Hardware
    resources: ContainerResources
    cache: CachePlan | None
    lifecycle: Lifecycle
    rollout: RolloutPlan
    scale: Scale
    service_type: str
    service_port: int
    children: tuple[Child, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    uid: str | None = None  # of the LLMService; None where no API server has seen it
    suspended: bool = False
    pod: PodPlan = PodPlan()
    network: NetworkPlan | None = None
    service_marks: Marks = Marks()
    monitor_marks: Marks = Marks()
    preload_image: str = ""  # downloads the model, for any runtime
