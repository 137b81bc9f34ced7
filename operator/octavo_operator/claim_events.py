"""Why a claim has no volume, from the Events that the storage's controllers post about it."""

from __future__ import annotations

from octavo_operator.cluster import Cluster, Object
from octavo_operator.resources import EVENTS

AT_IT = {"ExternalProvisioning", "Provisioning"}  # told again and again, between the complaints


async def words_about(cluster: Cluster, namespace: str, claim: str) -> str:
    """The last complaint in its own words; empty where nobody complains, or no longer does."""
    about = f"regarding.kind=PersistentVolumeClaim,regarding.name={claim}"
    events = [each for each in await cluster.list(EVENTS, namespace, fields=about) if each.get("reason") not in AT_IT]
    last = max(events, key=_when, default={})
    complains = last.get("type") == "Warning" or last.get("reason") == "FailedBinding"
    return str(last.get("note", "")) if complains else ""


def _when(event: Object) -> str:
    return str(event.get("deprecatedLastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])
