"""The PodDisruptionBudget: a drained node takes one replica at a time."""

from __future__ import annotations

from octavo_operator.api.labels import selector
from octavo_operator.children.child import Manifest, child
from octavo_operator.planner.plan import Plan


def render(plan: Plan, name: str) -> Manifest:
    """Render it; a replica that never got ready blocks no drain."""
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector(plan.name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return child(plan, "policy/v1", "PodDisruptionBudget", name, spec)
