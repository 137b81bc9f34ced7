"""The Deployment: the replicas, and how a change reaches them."""

from __future__ import annotations

from octavo_operator.api.labels import selector
from octavo_operator.children.child import Manifest, child
from octavo_operator.children.pod import template
from octavo_operator.planner.plan import Plan

PULL_S = 600  # for the image, before a start-up budget even begins
KEPT_REVISIONS = 3


def render(plan: Plan, name: str) -> Manifest:
    """Render it; under autoscaling without `replicas`, which are the autoscaler's."""
    spec: Manifest = {
        "selector": {"matchLabels": selector(plan.name)},
        "strategy": _strategy(plan),
        # A model that loads for half an hour is no failed rollout; in place, an old replica drains before that.
        "progressDeadlineSeconds": plan.lifecycle.expected + plan.lifecycle.grace + PULL_S,
        "revisionHistoryLimit": KEPT_REVISIONS,
        "template": template(plan),
    }
    if plan.scale.replicas is not None:
        spec["replicas"] = plan.scale.replicas
    return child(plan, "apps/v1", "Deployment", name, spec)


def _strategy(plan: Plan) -> Manifest:
    rollout = plan.rollout
    if rollout.recreate:
        return {"type": "Recreate"}
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": rollout.max_surge, "maxUnavailable": rollout.max_unavailable},
    }
