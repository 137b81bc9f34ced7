"""From a plan to Kubernetes objects: pure, one module a child; the same plan gives the same bytes."""

from __future__ import annotations

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
from octavo_operator.children.ownership import Manifest
from octavo_operator.planner.plan import Plan

__all__ = ["Manifest", "render"]


def render(plan: Plan) -> tuple[Manifest, ...]:
    """In the order in which they are applied; none where the plan is a refusal."""
    if plan.refusal is not None:
        return ()
    made = []
    if plan.network is not None:  # first: no pod answers before it is in force
        made.append(network_policy.render(plan, plan.network))
    if plan.cache is not None and plan.cache.create:
        made.append(pvc.render(plan, plan.cache))
    if plan.cache is not None and plan.cache.preload:
        made.append(preload_job.render(plan, plan.cache))
    made += [service.render(plan), service.render_headless(plan), deployment.render(plan)]
    if plan.scale.replicas is None:
        made.append(hpa.render(plan))
    if plan.scale.maximum > 1:
        made.append(pod_disruption.render(plan))
    if plan.service_monitor:
        made.append(service_monitor.render(plan))
    return tuple(made)
