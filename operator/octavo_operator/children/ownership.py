"""What all children have: a name, the labels, and the LLMService as their owner."""

from __future__ import annotations

from typing import Any

from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.labels import ENGINE, INSTANCE, labels
from octavo_operator.planner.plan import Plan

Manifest = dict[str, Any]


def child(
    plan: Plan, api_version: str, kind: str, name: str, spec: Manifest, *, component: str = ENGINE, owned: bool = True
) -> Manifest:
    """One object. Without an API server there is no uid, and so no owner, either."""
    metadata: Manifest = {"name": name, "namespace": plan.namespace, "labels": labels(plan.name, component)}
    if not owned:
        # Argo CD, where it tracks by this label, would take it for a part of the Application of that name, and prune it.
        del metadata["labels"][INSTANCE]
    if owned and plan.uid is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": plan.name,
                "uid": plan.uid,
                "controller": True,
                # Blocking would need a right to the service's finalizers, and would hold up its deletion.
                "blockOwnerDeletion": False,
            }
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
