"""Replicas, and how requests reach them: `autoscaling`, `rollout`, `auth`, `service`, `monitoring`, `networkPolicy`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import MAX_ITEMS, Count, DataKey, Label, ObjectName, Strict, Texts, Verbatim
from octavo_operator.api.duration import Duration


class Autoscaling(Strict):
    """A HorizontalPodAutoscaler on the queue's depth; in place of `replicas`."""

    min_replicas: Count = 1
    """Replicas that always run."""
    max_replicas: Count
    """Replicas that never are exceeded."""
    target_queue_depth: Count = 10
    """Waiting requests a replica, on average, above which one is added. Replicas whose batch or KV cache is four fifths full are added to as well."""
    metrics: Annotated[list[Verbatim], Field(max_length=MAX_ITEMS)] = []
    """Further metrics, verbatim autoscaling/v2."""
    behavior: Verbatim = {}
    """Scaling behaviour, verbatim autoscaling/v2."""


class Rollout(Strict):
    """The rollout of changes to the replicas."""

    strategy: Literal["Auto", "Surge", "InPlace"] = "Auto"
    """Surge starts the new replica before the old one ends; InPlace ends the old one first; Auto decides by the GPUs that are free."""
    upgrade_policy: Literal["Paced", "Manual"] = "Paced"
    """The effect of an operator upgrade on the replicas: Paced replaces them when the service's turn comes; Manual
    leaves them until the service has the annotation octavo.dev/upgrade, as the condition UpToDate describes.
    """
    drain_timeout: Duration | None = None
    """The time in which a replica that ends may finish its requests; by default as long as the longest admissible
    generation takes.
    """


class ApiKeys(Strict):
    """The Secret that holds the API key which clients present."""

    secret_name: ObjectName
    """Name of the Secret, in the service's namespace."""
    key: DataKey = "api-keys"
    """Key within the Secret whose value is the API key. The octavo runtime follows a change of the Secret within a
    minute or two, without a restart; other runtimes read it when a replica starts."""


class Auth(Strict):
    """Authentication of clients."""

    api_keys: ApiKeys | None = None
    """A request with this key is served; without the field the service answers every request."""


class Service(Strict):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the Service."""
    labels: Texts = {}
    """Labels of the Service, in addition to Octavo's own."""
    annotations: Texts = {}
    """Annotations of the Service, such as those that a cloud's load balancer reads."""


class Monitoring(Strict):
    """The discovery of the replicas by Prometheus."""

    service_monitor: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    """Creates a ServiceMonitor; Auto creates one where its CRD exists."""
    labels: Texts = {}
    """Labels of the ServiceMonitor, by which a Prometheus may select it (kube-prometheus-stack: its release)."""
    annotations: Texts = {}
    """Annotations of the ServiceMonitor."""
    namespace: Label | None = None
    """Namespace of the Prometheus that scrapes; a NetworkPolicy lets it in."""


class NetworkPolicy(Strict):
    """The clients that may reach the replicas over the network."""

    enabled: bool = False
    """Creates a NetworkPolicy."""
    allow_from: Annotated[list[Verbatim], Field(max_length=MAX_ITEMS)] = []
    """Peers that may connect, verbatim networking.k8s.io/v1; none: the service's own namespace."""
