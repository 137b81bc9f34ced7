"""The source of autoscalers' metrics, as the condition `Autoscaling` reports it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo_operator.api.reasons import AutoscalingReason


@dataclass(frozen=True, slots=True)
class MetricsSource:
    """`remedy` holds the state and what to do; it is empty where Octavo's own API serves."""

    reason: AutoscalingReason
    remedy: str = ""


OTHERWISE = "have KEDA or prometheus-adapter read the engines' metrics (config/autoscaling)"

UNKNOWN = MetricsSource(AutoscalingReason.API_UNKNOWN)
SERVED = MetricsSource(AutoscalingReason.API_SERVED)
UNSERVED = MetricsSource(
    AutoscalingReason.API_UNSERVED,
    "no replica of the operator serves custom.metrics.k8s.io: see the container metrics-api of octavo-operator's pods",
)
NAMESPACED = MetricsSource(
    AutoscalingReason.API_NAMESPACED,
    f"an operator of single namespaces serves no metrics API, which is the whole cluster's: {OTHERWISE}",
)
DISABLED = MetricsSource(AutoscalingReason.API_DISABLED, f"the operator's metrics API is switched off: {OTHERWISE}")


def foreign(api_service: Mapping[str, Any]) -> MetricsSource:
    """Another program's API, which is left alone."""
    service = api_service["spec"].get("service") or {}
    whose = f"{service.get('namespace')}/{service.get('name')}" if service else "the API server itself"
    return MetricsSource(
        AutoscalingReason.API_FOREIGN,
        f"custom.metrics.k8s.io is served by {whose}, which is left alone: give it Octavo's rules "
        "(config/autoscaling/prometheus-adapter.yaml), or use KEDA (config/autoscaling/keda.yaml)",
    )


def unreachable(words: str, port: int | None) -> MetricsSource:
    """Served, but out of the API server's reach, and therefore not announced."""
    where = f"port {port}" if port else "the container's port"
    return MetricsSource(
        AutoscalingReason.API_UNREACHABLE,
        f"the API server can't reach the metrics API, so it is not announced ({' '.join(words.split())[:300]}): let "
        f"the control plane connect to {where} of octavo-operator's pods (firewall rule, NetworkPolicy, or no mesh "
        f"for that port), or {OTHERWISE}; it is tried again by itself",
    )
