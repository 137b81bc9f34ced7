"""The metadata of all children: a name, the labels, and the LLMService as their owner."""

from __future__ import annotations

from typing import Any

from octavo_operator.api.labels import ENGINE, INSTANCE, labels
from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.planner.plan import Marks, Plan

Manifest = dict[str, Any]
NO_MARKS = Marks()


def child(
    plan: Plan,
    api_version: str,
    kind: str,
    name: str,
    spec: Manifest,
    *,
    component: str = ENGINE,
    owned: bool = True,
    marks: Marks = NO_MARKS,
) -> Manifest:
    """Make one object. Without an API server it has no uid, and so no owner, either. Our own labels win over `marks`."""
    given = {**marks.labels, **labels(plan.name, component)}
    metadata: Manifest = {"name": name, "namespace": plan.namespace, "labels": given}
    if marks.annotations:
        metadata["annotations"] = dict(marks.annotations)
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
                # Blocking would need a right to the service's finalizers, and would delay its deletion.
                "blockOwnerDeletion": False,
            }
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
