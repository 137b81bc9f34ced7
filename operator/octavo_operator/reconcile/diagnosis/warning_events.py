"""Warnings of controllers and kubelets in Events: a claim without a volume, a Job without a pod, a pod that can't start."""

from __future__ import annotations

from octavo_operator.api.observed import WarningEvent
from octavo_operator.api.resources import EVENTS
from octavo_operator.cluster.client import Cluster, Object

PROGRESS = {"ExternalProvisioning", "Provisioning"}  # repeated between the warnings
WARNINGS = {"FailedBinding", "NotTriggerScaleUp"}  # although their type is Normal
NODE_ORDERED = {"TriggeredScaleUp", "Nominated"}  # by the cluster autoscaler, by Karpenter


async def last_warning(cluster: Cluster, thing: Object) -> WarningEvent | None:
    """The last Event about an object, if it is a warning; earlier warnings are over."""
    metadata = thing["metadata"]
    about = f"regarding.kind={thing['kind']},regarding.name={metadata['name']}"
    found = await cluster.list(EVENTS, metadata["namespace"], fields=about)
    events = [
        each
        for each in found
        if each.get("reason") not in PROGRESS and each.get("regarding", {}).get("uid") in {None, metadata["uid"]}
    ]
    last = max(events, key=_when, default={})
    scaled = [each for each in events if each.get("reason") in {*NODE_ORDERED, "NotTriggerScaleUp"}]
    comes = max(scaled, key=_when, default={}).get("reason") in NODE_ORDERED
    if not comes and last.get("type") != "Warning" and last.get("reason") not in WARNINGS:
        return None
    return WarningEvent(str(last.get("reason", "")), str(last.get("note", "")), comes)


def _when(event: Object) -> str:
    return str(event.get("deprecatedLastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])
