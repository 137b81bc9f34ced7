"""Why a pod does not answer, told by its status: what is so, and what to do. Pure.

A pod that crashes flickers between running and waiting; it counts as crashing until it is ready, so that the status
does not flicker with it. Nothing that counts up by itself (restarts, times) is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo_operator.observed import Nodes, Object
from octavo_operator.planner.plan import Plan

LONGEST_WORDS = 400
MISSING_CLAIM = re.compile(r'persistentvolumeclaim "[^"]+" not found')
CRASHES = (
    ("out of memory", "EngineOutOfMemory", "raise resources or engine.tensorParallelSize, or lower engine.maxModelLen"),
    ("OutOfMemory", "EngineOutOfMemory", "lower engine.gpuMemoryUtilization or engine.maxModelLen, or use more cards"),
    ("401", "ModelAccessDenied", "check the token in the Secret that model.credentials names"),
    ("403", "ModelAccessDenied", "accept the model's terms at its hub, and check the token of model.credentials"),
    ("gated", "ModelAccessDenied", "accept the model's terms at its hub, and set model.credentials"),
    ("No space left", "DiskFull", "raise cache.size, or give the node more ephemeral storage"),
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not answer. `stuck`: it takes a person."""

    reason: str
    message: str
    stuck: bool
    rank: int  # the gravest first


def trouble_of(pod: Object, plan: Plan, nodes: Nodes | None) -> Trouble | None:
    """None where it is ready, or on its way out."""
    status: Mapping[str, Any] = pod.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    if "deletionTimestamp" in pod["metadata"] or conditions.get("Ready", {}).get("status") == "True":
        return None
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and not status.get("containerStatuses"):
        return _unscheduled(str(scheduled.get("message", "")), plan, nodes)
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, NodeShutdown: a new pod takes its place
        return Trouble(str(status["reason"]), f"a pod failed: {status.get('message', '')}", stuck=False, rank=6)
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    found = [trouble for container in containers if (trouble := _of_container(container, plan)) is not None]
    if found:
        return min(found, key=lambda trouble: trouble.rank)
    if any("running" in container.get("state", {}) for container in status.get("containerStatuses", ())):
        budget = plan.lifecycle.startup.budget
        return Trouble("LoadingModel", f"the model is being loaded; it may take {budget} s", stuck=False, rank=8)
    return Trouble("Starting", "the pod is being started", stuck=False, rank=9)


def _of_container(container: Mapping[str, Any], plan: Plan) -> Trouble | None:
    state = container.get("state", {})
    waiting = state.get("waiting", {})
    reason, words = str(waiting.get("reason", "")), _short(str(waiting.get("message", "")))
    if reason in {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}:
        image = container.get("image") or plan.engine.image
        remedy = "check engine.image, and engine.image.pullSecrets for a private registry"
        text = f"the image {image} can't be pulled; {remedy}" + (f" ({words})" if words else "")
        return Trouble("ImagePullBackOff", text, stuck=reason != "ErrImagePull", rank=1)
    if reason in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
        remedy = "create what is missing; the pod then starts by itself" if "not found" in words else "mend the spec"
        return Trouble(reason, f"{words or 'the container can not be made'}; {remedy}", stuck=True, rank=2)
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if ended is not None and (ended.get("exitCode") or container.get("restartCount")):
        return _crash(ended, plan)
    return None


def _crash(ended: Mapping[str, Any], plan: Plan) -> Trouble:
    words, code = _short(str(ended.get("message", ""))), ended.get("exitCode", 0)
    if ended.get("reason") == "OOMKilled":
        limit = plan.resources.limits.get("memory")
        has = f"its limit of {limit}" if limit else "the node's memory"
        text = f"the container used more than {has} and was killed; raise resources.limits.memory"
        return Trouble("OOMKilled", f"{text}, or lower engine.maxNumSeqs", stuck=True, rank=3)
    for mark, reason, remedy in CRASHES:
        if mark in words:
            return Trouble(reason, f"{words}; {remedy}", stuck=True, rank=3)
    if code == 2:
        return Trouble(
            "EngineRefused", f"{words or 'the engine refuses its arguments'}; mend the spec", stuck=True, rank=3
        )
    if code in {137, 143} and not words:
        text = f"the engine was killed (exit code {code}) before it answered; see kubectl logs -p"
        return Trouble("EngineCrashed", text, stuck=True, rank=4)
    text = f"the engine ended with exit code {code}" + (f": {words}" if words else "") + "; see kubectl logs -p"
    return Trouble("EngineCrashed", text, stuck=True, rank=4)


def _unscheduled(words: str, plan: Plan, nodes: Nodes | None) -> Trouble:
    """The scheduler's own words count nodes, and so change by themselves: they are told only where no better is known."""
    hardware = plan.hardware
    if hardware.cards and nodes is not None:
        wanted = " or ".join(hardware.products) or hardware.resource_name or "cards"
        if not nodes.largest and (
            set(hardware.products) & set(nodes.products) or (nodes.products and not hardware.products)
        ):
            text = f"the nodes with {wanted} take no replica now: they are cordoned, not ready, tainted or not selected"
            return Trouble("NoFreeCard", text, stuck=False, rank=5)
        if not nodes.largest and not hardware.products:
            text = f"no node has any {wanted}; add one with cards, or set accelerator.vendor: cpu"
            return Trouble("NoSuchCard", text, stuck=True, rank=5)
        if not nodes.largest:
            have = f"nodes have {', '.join(nodes.products)}" if nodes.products else "no node has any"
            text = f"no node has {wanted}; {have}: change accelerator.products, or add such a node"
            return Trouble("NoSuchCard", text, stuck=True, rank=5)
        if nodes.largest < hardware.cards:
            text = (
                f"a replica takes {hardware.cards} cards of one node; the largest has {nodes.largest}: "
                "lower engine.tensorParallelSize, or add a larger node"
            )
            return Trouble("TooFewCards", text, stuck=True, rank=5)
        if nodes.free < hardware.cards:
            cards = "a free card" if hardware.cards == 1 else f"{hardware.cards} free cards on one node"
            text = f"waits for {cards} ({wanted}); fewer replicas elsewhere, or another node, would help"
            return Trouble("NoFreeCard", text, stuck=False, rank=5)
    if "unbound immediate PersistentVolumeClaims" in words or "persistentvolumeclaim" in words.lower():
        if missing := MISSING_CLAIM.search(words):
            text = f"{missing[0]}; create the claim, or name another in cache.existingClaim"
            return Trouble("ClaimMissing", text, stuck=True, rank=5)
        text = f"its volume is not there yet: {_short(words)}; see that its storage class exists and can make one"
        return Trouble("VolumeNotBound", text, stuck=False, rank=7)
    return Trouble("Unschedulable", f"no node will do: {_short(words)}", stuck=False, rank=5)


def _short(words: str) -> str:
    """The end of what was said, where engines say what was wrong."""
    words = " ".join(words.split())
    return words if len(words) <= LONGEST_WORDS else f"…{words[-LONGEST_WORDS:]}"
