"""Renders a plan as Kubernetes objects: pure, one module a child; the same plan gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from octavo_operator.children import (
    deployment,
    hpa,
    network_policy,
    pod_disruption,
    preload_job,
    pvc,
    service,
    service_monitor,
)
from octavo_operator.children.child import Manifest
from octavo_operator.planner.plan import Plan

__all__ = ["Manifest", "render"]

RENDERERS: Mapping[str, Callable[[Plan, str], Manifest]] = {
    "NetworkPolicy": network_policy.render,  # first: no pod answers before it is in force
    "PersistentVolumeClaim": pvc.render,
    "Job": preload_job.render,
    "Service": service.render,
    "Deployment": deployment.render,
    "HorizontalPodAutoscaler": hpa.render,
    "PodDisruptionBudget": pod_disruption.render,
    "ServiceMonitor": service_monitor.render,
}
"""The renderers by kind, in the order in which children are applied."""


def render(plan: Plan) -> tuple[Manifest, ...]:
    """The children that the plan has, in the order in which they are applied; none where it is a refusal."""
    made = [child for child in plan.children if child.certain]
    order = list(RENDERERS)
    return tuple(
        RENDERERS[child.kind](plan, child.name) for child in sorted(made, key=lambda child: order.index(child.kind))
    )
