"""LLMService, version v1alpha1: the root of the types, and what identifies them.

The CRD is generated from these. The version changes by addition only, so a field's name is chosen to last.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import Strict, Verbatim
from octavo_operator.api.engine import Engine
from octavo_operator.api.metadata import Metadata
from octavo_operator.api.model import Model
from octavo_operator.api.placement import Accelerator, Cache, Resources
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.traffic import Auth, Autoscaling, Monitoring, NetworkPolicy, Rollout, Service

GROUP = "octavo.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMService"
PLURAL = "llmservices"
SHORT_NAME = "llms"

# Annotations
IGNORE_FIT = f"{GROUP}/ignore-fit"  # "true" serves what does not fit
MODEL_SIZE = f"{GROUP}/model-size"  # of its files, as a quantity, where its architecture is not described
UPGRADE = f"{GROUP}/upgrade"  # the release of the operator that the service is to move to
MODEL_CONFIG = f"{GROUP}/model-config"  # the model's config.json, for a planner that does not ask the hub


class Spec(Strict):
    """The model, its engine and hardware, and its clients. `model.uri` alone is enough."""

    model: Model
    """The model that is served."""
    engine: Engine = Engine()
    """The engine and its limits."""
    accelerator: Accelerator | None = None
    """The GPUs that a replica runs on; by default any of NVIDIA's."""
    resources: Resources = Resources()
    """CPU and memory of a replica; what is left out follows from the model's size."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, held in memory; by default it follows from the number of GPUs."""
    cache: Cache | None = None
    """Volume that keeps the model between restarts."""
    replicas: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    """Replicas, without autoscaling."""
    autoscaling: Autoscaling | None = None
    """Scaling by the queue's depth, in place of `replicas`."""
    rollout: Rollout = Rollout()
    """The rollout of changes to the replicas."""
    auth: Auth = Auth()
    """Authentication of clients."""
    service: Service = Service()
    """The Service in front of the replicas."""
    monitoring: Monitoring = Monitoring()
    """The discovery of the replicas by Prometheus."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """The clients that may reach the replicas over the network."""
    suspend: bool = False
    """Scale to nothing and keep everything else."""
    pod_template: Verbatim = {}
    """Merged into the pod last, as a strategic merge would; unknown fields are kept."""


class LLMService(Strict):
    """A model, served: the operator makes the Deployment, the Service, the cache and the autoscaler it needs."""

    api_version: Literal["octavo.dev/v1alpha1"]
    """octavo.dev/v1alpha1."""
    kind: Literal["LLMService"]
    """LLMService."""
    metadata: Metadata
    """Name, namespace, labels and annotations."""
    spec: Spec
    """Desired state."""
    status: Verbatim | None = None
    """State of the service; written by the operator alone."""
