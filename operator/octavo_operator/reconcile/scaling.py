"""Decides who sets a Deployment's number of replicas, and changes that number alone.

The manifest sets it, except while a HorizontalPodAutoscaler targets the Deployment and the manifest stops nothing: then
the live number stands. Managed fields cannot decide it: the entry of `/scale` outlives its autoscaler, and one that scales to
zero leaves none, for a Scale omits a zero.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from octavo_operator.api.observed import Observed
from octavo_operator.api.resources import DEPLOYMENTS
from octavo_operator.cluster.client import Cluster, Object
from octavo_operator.cluster.field_ownership import HANDOVER
from octavo_operator.planner import Plan

log = logging.getLogger(__name__)


def autoscaler_of(name: str, autoscalers: Sequence[Object]) -> str | None:
    """The HorizontalPodAutoscaler that targets the Deployment of this name; one of another name comes first."""
    targets = [
        str(each["metadata"]["name"])
        for each in autoscalers
        if "deletionTimestamp" not in each["metadata"]
        and (each["spec"]["scaleTargetRef"].get("kind"), each["spec"]["scaleTargetRef"].get("name"))
        == (DEPLOYMENTS.kind, name)
    ]
    return next((each for each in targets if each != name), targets[0] if targets else None)


def is_autoscaled(plan: Plan, observed: Observed) -> bool:
    """True if the live number stands: our own autoscaler is desired, or another one scales what is not stopped."""
    if plan.scale.replicas is None:
        return True
    return plan.scale.replicas > 0 and observed.autoscaler not in {None, plan.name}


def running(live: Mapping[str, Any] | None) -> int:
    """The number of replicas in a live Deployment's spec; the API's own default is one."""
    if live is None:
        return 0
    number = live["spec"].get("replicas")
    return 1 if number is None else int(number)


def asks_to_stop(body: Mapping[str, Any]) -> bool:
    """True if a spec that cannot be used as a whole still plainly requests no replicas."""
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return False
    none = spec.get("replicas") == 0 and not isinstance(spec.get("replicas"), bool) and not spec.get("autoscaling")
    return spec.get("suspend") is True or none


async def set_number(cluster: Cluster, live: Object, number: int, log_as: Mapping[str, Any]) -> Object:
    """Changes the number and nothing else, unless the Deployment has changed meanwhile (409).

    By a second manager of ours: an apply by the first one would give up every field that it leaves out.
    """
    metadata = live["metadata"]
    body = {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "spec": {"replicas": number},
    }
    changed = await cluster.apply(DEPLOYMENTS, body, manager=HANDOVER)
    log.info("set replicas of Deployment %s to %d", metadata["name"], number, extra=dict(log_as))
    return changed
