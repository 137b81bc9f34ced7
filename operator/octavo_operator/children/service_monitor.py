"""The ServiceMonitor: how Prometheus' operator finds the replicas."""

from __future__ import annotations

from octavo_operator.api.labels import METRICS, selector
from octavo_operator.children.child import Manifest, child
from octavo_operator.children.pod import PORT_NAME
from octavo_operator.planner.plan import Plan
from octavo_operator.runtimes.runtime import METRICS_PATH

INTERVAL = "15s"


def render(plan: Plan, name: str) -> Manifest:
    """Selects the headless Service alone: through both, each pod would be scraped twice."""
    endpoint: Manifest = {"port": PORT_NAME, "path": METRICS_PATH, "interval": INTERVAL}
    if plan.engine.tls is not None:
        # A pod is asked by its address, which is in no certificate.
        endpoint |= {"scheme": plan.engine.scheme, "tlsConfig": {"insecureSkipVerify": True}}
    spec = {"selector": {"matchLabels": selector(plan.name, METRICS)}, "endpoints": [endpoint]}
    return child(plan, "monitoring.coreos.com/v1", "ServiceMonitor", name, spec, marks=plan.monitor_marks)
