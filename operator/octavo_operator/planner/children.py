"""Decides which children a service has; `children` renders them."""

from __future__ import annotations

from octavo_operator.api.names import headless_service, preload_job
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.plan import CachePlan, Child, Hardware, RolloutPlan, Scale


def children_of(
    service: LLMService,
    hardware: Hardware,
    scale: Scale,
    rollout: RolloutPlan,
    cache: CachePlan | None,
    *,
    service_monitor: bool,
) -> tuple[Child, ...]:
    """The children, in the order in which a plan prints them. `service_monitor`: the cluster serves that kind."""
    spec, name = service.spec, service.metadata.name
    children = []
    if spec.network_policy.enabled:
        peers = len(spec.network_policy.allow_from) or "own namespace"
        children.append(Child("NetworkPolicy", name, f"{peers} may connect"))
    if cache is not None and cache.create:
        children.append(Child("PersistentVolumeClaim", cache.claim, f"{cache.size} {cache.access_mode}"))
    if cache is not None and cache.preload:
        children.append(Child("Job", preload_job(name), "downloads the model once"))
    children += [
        Child("Deployment", name, f"{_pods(hardware, scale)}, {_strategy(rollout)}"),
        Child("Service", name, f":{spec.service.port}{_type(spec.service.type)}"),
        Child("Service", headless_service(name), "headless, for scraping"),
    ]
    if scale.replicas is None:
        detail = f"{scale.minimum}–{scale.maximum} on waiting > {scale.target_queue_depth}"
        children.append(Child("HorizontalPodAutoscaler", name, detail))
    if scale.maximum > 1:
        children.append(Child("PodDisruptionBudget", name, "maxUnavailable 1"))
    if spec.monitoring.service_monitor != "Disabled":
        certain = spec.monitoring.service_monitor == "Enabled" or service_monitor
        when = ", where its CRD exists" if spec.monitoring.service_monitor == "Auto" else ""
        children.append(Child("ServiceMonitor", name, f"every 15 s{when}", certain))
    return tuple(children)


def kinds_of(service: LLMService) -> set[str]:
    """The optional kinds of which its plan may have a child, whatever is observed."""
    spec, auto = service.spec, service.spec.autoscaling
    asked = {
        "NetworkPolicy": spec.network_policy.enabled,
        "PersistentVolumeClaim": spec.cache is not None,
        "Job": spec.cache is not None,
        "HorizontalPodAutoscaler": auto is not None,
        "PodDisruptionBudget": (spec.replicas if auto is None else auto.max_replicas) > 1,
        "ServiceMonitor": spec.monitoring.service_monitor != "Disabled",
    }
    return {kind for kind, wanted in asked.items() if wanted}


def _pods(hardware: Hardware, scale: Scale) -> str:
    count = scale.minimum if scale.replicas is None else scale.replicas
    pods = "1 pod" if count == 1 else f"{count} pods"
    if hardware.gpus == 0:
        return f"{pods} on CPUs"
    return f"{pods} × {hardware.gpus} GPU{'s' if hardware.gpus > 1 else ''}"


def _strategy(rollout: RolloutPlan) -> str:
    if rollout.strategy == "Surge":
        return "surge of one"
    return f"{'Recreate' if rollout.recreate else 'one at a time in place'}: {rollout.reason}"


def _type(kind: str) -> str:
    return "" if kind == "ClusterIP" else f" ({kind})"
