"""The replicas of a Deployment: whether they serve its template, and why they never will. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo_operator.api.conditions import condition_of
from octavo_operator.api.observed import Object
from octavo_operator.reconcile.capacity import ENDED
from octavo_operator.reconcile.diagnosis.trouble import Trouble
from octavo_operator.reconcile.free_gpus import is_under_way

RESTARTS = 2
"""Crashes after which an engine is not waited for any longer: the first may be a file or a peer that came late."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """State of a Deployment's replicas."""

    desired: int
    ready: int
    under_way: bool
    """Some do not follow the Deployment's template yet."""
    stuck: str = ""
    """The reason why replicas that follow it will not serve; empty while they may."""
    refused: str = ""
    """The API server's reason for taking no pod of it; empty where it takes them."""
    loading: bool = False
    """One has a node and is about to serve."""

    def serve(self, before: int) -> bool:
        """All follow the template, and as many are ready as were before, or as are still desired."""
        return not self.under_way and self.ready >= min(self.desired, max(1, before))


def replicas_of(
    deployment: Object,
    pods: Sequence[Object] = (),
    trouble_of: Callable[[Object], Trouble | None] = lambda _: None,
    since: str = "",
) -> Replicas:
    """Read a live Deployment and its pods; `since` is when its last move began, for older pods are not the move's."""
    status: Mapping[str, Any] = deployment.get("status", {})
    alive = [
        pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _has_node(pod) and not _has_ended(pod)
    ]
    recent = [pod for pod in alive if str(pod["metadata"]["creationTimestamp"]) >= since]
    troubles = [(pod, trouble) for pod in recent if (trouble := trouble_of(pod)) is not None]
    stuck = [trouble.message for pod, trouble in troubles if trouble.stuck and not _may_recover(pod)]
    return Replicas(
        desired=int(deployment["spec"].get("replicas", 1)),
        ready=int(status.get("readyReplicas", 0)),
        under_way=is_under_way(deployment),
        stuck=next(iter(stuck), "") or _bad_condition(deployment, "Progressing", "False"),
        refused=_bad_condition(deployment, "ReplicaFailure", "True"),
        loading=any(not trouble.stuck for _, trouble in troubles),
    )


def _bad_condition(deployment: Object, kind: str, bad: str) -> str:
    """A condition of the Deployment that is bad, in its controller's words; empty where it is not."""
    status: Mapping[str, Any] = deployment.get("status", {})
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 1)):
        return ""  # of what was before
    condition = condition_of(deployment, kind)
    return f"{condition.get('reason')}: {condition.get('message', '')}" if condition.get("status") == bad else ""


def _may_recover(pod: Object) -> bool:
    """True if a pod crashed, but not often: perhaps what it needs comes late."""
    containers = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    waits_for = {each.get("state", {}).get("waiting", {}).get("reason") for each in containers}
    crashes = max((int(each.get("restartCount", 0)) for each in containers), default=0)
    return waits_for <= {None, "CrashLoopBackOff"} and crashes < RESTARTS


def _has_ended(pod: Object) -> bool:
    """Evicted, or not admitted by its node: another one takes its place, and decides."""
    return pod.get("status", {}).get("phase") in ENDED


def _has_node(pod: Object) -> bool:
    return bool(pod["spec"].get("nodeName"))
