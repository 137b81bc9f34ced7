"""`status`: what is, as the operator writes it and the CRD describes it.

Nothing in it changes by itself while the service serves: queue depth and throughput are asked for, not stored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import Strict
from octavo_operator.api.conditions import Condition

NEVER = -1
"""The observedGeneration that the definition fills in: the operator has not looked yet."""

Natural = Annotated[int, Field(ge=0)]
Replicas = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ModelStatus(Strict):
    """The model that is served, as it was resolved."""

    uri: str
    """The source of the weights: spec.model.uri, as it was observed."""
    display_name: str
    """The model's name without its scheme, as kubectl get shows it."""
    revision: str | None = None
    """Branch, tag or commit that was asked for."""
    commit: str | None = None
    """Commit that the revision resolved to, where it is known."""
    summary: str | None = None
    """Name, layers, heads and type of the weights in one line."""
    served_names: list[str] = []
    """Names that clients may put into `model`; the first one is reported."""


class MemoryStatus(Strict):
    """The division of memory, where the model and the GPU are known: of one GPU, or of the container without GPUs."""

    capacity: str
    """All of it."""
    weights: str
    """The model's weights."""
    kv_cache: str
    """Blocks of the KV cache: what is left of the share that the engine may use."""
    overhead: str
    """Context, workspace, and the activations of one step."""


class PlanStatus(Strict):
    """The plan and its reasons; `octavo plan` prints the same."""

    cards: Natural | None = None
    """GPUs of each replica; 0 on a CPU."""
    products: list[str] = []
    """GPUs that will do; none named: any."""
    image: str | None = None
    """Image that the engine runs from."""
    max_model_len: Natural | None = None
    """Longest sequence in tokens, where it is known."""
    concurrent_sequences: Natural | None = None
    """Sequences of maxModelLen tokens that fit at once, where it is known."""
    memory: MemoryStatus | None = None
    """The division of memory, where the model and the GPU are known."""
    startup_seconds: Natural | None = None
    """The time that a replica may take until it answers, in seconds."""
    drain_seconds: Natural | None = None
    """The time in which a replica that ends may finish its requests, in seconds."""
    rollout: Literal["Surge", "InPlace"] | None = None
    """The way in which a change reaches the replicas."""
    rollout_reason: str | None = None
    """The reason for choosing this way."""
    reasons: list[str] = []
    """The decisions made for the manifest, and the reason for each."""
    warnings: list[str] = []
    """Warnings, each with what avoids it."""


class CacheStatus(Strict):
    """The model that was downloaded onto the claim: what is remembered when the Job is gone."""

    claim: str
    """Claim that holds it."""
    claim_uid: Annotated[str, Field(alias="claimUID")]
    """UID of that claim; one that was created again is empty."""
    download: str
    """Digest of which download it was, as in the Job's annotation octavo.dev/download."""
    commit: str | None = None
    """Commit that was downloaded, where it is known."""
    bytes: Annotated[int, Field(ge=0)] | None = None
    """Size of the weights, where it is known."""


class UpgradeStatus(Strict):
    """The settings that the replicas keep while the operator is upgraded, once they have served, until the service's turn."""

    release: str | None = None
    """Release of the operator that rendered the replicas' pod template."""
    image: str | None = None
    """Default image that they are pinned to; none where spec.engine.image names one."""
    variant: str | None = None
    """Key of that image among the operator's defaults, such as octavo-cuda."""
    version: str | None = None
    """Version of the operator whose default image it was."""
    available: str | None = None
    """Release that the replicas do not have yet."""


class Status(Strict):
    """State of the service; written by the operator alone."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    """The metadata.generation that the status describes; -1 until the operator has reconciled the object."""
    conditions: list[Condition] = []
    """Ready, Progressing, Stalled, ModelCached, Autoscaling, Fits, UpToDate and, while they hold, TwoOperators and Reconciling."""
    replicas: Replicas | None = None
    """Replicas that exist, ready or not."""
    ready_replicas: Replicas | None = None
    """Replicas that answer."""
    updated_replicas: Replicas | None = None
    """Replicas that follow the current spec."""
    readiness: str | None = None
    """Ready and desired replicas: 1/2, as kubectl get shows it."""
    selector: str | None = None
    """Label selector of the replicas' pods, as the scale subresource needs it."""
    url: str | None = None
    """The URL of the service for clients within the cluster."""
    model: ModelStatus | None = None
    """The model that is served, as it was resolved."""
    cache: CacheStatus | None = None
    """The model that was downloaded."""
    plan: PlanStatus | None = None
    """The plan and its reasons."""
    operator: str | None = None
    """Namespace of the operator that wrote this; another one over the same service gives way."""
    other_operator: str | None = None
    """Namespace of that other one, while it runs."""
    upgrade: UpgradeStatus | None = None
    """The settings that the replicas keep while the operator is upgraded, once they have served."""
