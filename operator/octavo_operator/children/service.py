"""The Services: the one that clients use, and a headless one over all pods, for scraping."""

from __future__ import annotations

from octavo_operator.api.labels import METRICS, selector
from octavo_operator.api.names import headless_service
from octavo_operator.children.child import Manifest, child
from octavo_operator.children.pod import PORT_NAME
from octavo_operator.planner.plan import Plan


def render(plan: Plan, name: str) -> Manifest:
    """Render one of the two, by its name."""
    return _headless(plan, name) if name == headless_service(plan.name) else _for_clients(plan, name)


def _for_clients(plan: Plan, name: str) -> Manifest:
    """The manifest's port, onto the replicas that are ready."""
    port: Manifest = {"name": PORT_NAME, "port": plan.service_port, "targetPort": PORT_NAME, "protocol": "TCP"}
    if plan.engine.tls is not None:
        port["appProtocol"] = plan.engine.scheme  # for the ingress or mesh before it
    spec = {"type": plan.service_type, "selector": selector(plan.name), "ports": [port]}
    return child(plan, "v1", "Service", name, spec, marks=plan.service_marks)


def _headless(plan: Plan, name: str) -> Manifest:
    """Every pod, also one that drains: its queue still counts."""
    port = {"name": PORT_NAME, "port": plan.engine.port, "targetPort": PORT_NAME, "protocol": "TCP"}
    spec = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector(plan.name),
        "ports": [port],
    }
    return child(plan, "v1", "Service", name, spec, component=METRICS)
