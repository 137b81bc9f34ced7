"""The NetworkPolicy: who may connect to the replicas."""

from __future__ import annotations

from octavo_operator.api.labels import selector
from octavo_operator.children.child import Manifest, child
from octavo_operator.children.pod import PORT_NAME
from octavo_operator.planner.plan import Plan


def render(plan: Plan, name: str) -> Manifest:
    """Ingress only: what a replica fetches is another matter. The kubelet's probes always pass."""
    network = plan.network
    assert network is not None
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": network.operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "octavo-operator"}},
    }
    peers = [dict(peer) for peer in network.allow_from] or [{"podSelector": {}}]
    if network.monitoring_namespace is not None:
        monitoring = {"kubernetes.io/metadata.name": network.monitoring_namespace}
        peers.append({"namespaceSelector": {"matchLabels": monitoring}})
    spec = {
        "podSelector": {"matchLabels": selector(plan.name)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [*peers, operator], "ports": [{"port": PORT_NAME, "protocol": "TCP"}]}],
    }
    return child(plan, "networking.k8s.io/v1", "NetworkPolicy", name, spec)
