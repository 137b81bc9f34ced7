"""The ServiceMonitor: how Prometheus' operator finds the replicas."""

from __future__ import annotations

from octavo_operator.api.labels import METRICS, selector
from octavo_operator.children.ownership import Manifest, child
from octavo_operator.children.pod import PORT_NAME
from octavo_operator.planner.plan import Plan

INTERVAL = "15s"
PATH = "/metrics"


def render(plan: Plan) -> Manifest:
    """Selects the headless Service alone: through both, each pod would be scraped twice."""
    spec = {
        "selector": {"matchLabels": selector(plan.name, METRICS)},
        "endpoints": [{"port": PORT_NAME, "path": PATH, "interval": INTERVAL}],
    }
    return child(plan, "monitoring.coreos.com/v1", "ServiceMonitor", plan.name, spec, marks=plan.monitor_marks)
