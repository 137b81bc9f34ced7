"""Diagnoses a pod that does not answer by its status and the Events about it: what happened, and what to do. Pure.

A pod that crashes flickers between running and waiting; it counts as crashing until it is ready, so that the status
does not flicker with it. Nothing that counts up by itself (restarts, times) is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from octavo_operator.api.conditions import by_type
from octavo_operator.api.labels import COMPONENT, PRELOAD
from octavo_operator.api.observed import Nodes, Object, Observed, WarningEvent
from octavo_operator.api.reasons import (
    EngineReason,
    Foreign,
    PodReason,
    SchedulingReason,
    StateReason,
    StorageReason,
)
from octavo_operator.planner.plan import Plan
from octavo_operator.planner.sizes import MIB
from octavo_operator.reconcile.diagnosis.crashes import signature_of
from octavo_operator.reconcile.diagnosis.redaction import redacted
from octavo_operator.reconcile.diagnosis.trouble import Trouble

LONGEST_WORDS = 400
PATIENCE_S = 900  # the cluster autoscaler's own limit for a node that it has asked for
MISSING_CLAIM = re.compile(r'persistentvolumeclaim "[^"]+" not found')
MISSING_OBJECT = re.compile(
    r'(?:configmap|secret) "[^"]+" not found|references non-existent (?:config|secret) key: \S+'
)
# As the scheduler's volume plugins word it: reason, words, remedy.
VOLUMES = (
    (
        StorageReason.CLAIM_IN_USE,
        re.compile(r"ReadWriteOncePod access mode"),
        "its claim is ReadWriteOncePod, for one pod at a time: set replicas: 1, or use a claim with another access mode",
    ),
    (
        StorageReason.VOLUME_ELSEWHERE,
        re.compile(r"volume node affinity conflict|match PersistentVolume's node affinity|no available volume zone"),
        "its volume is tied to other nodes, or to another zone: make room there, or use a storage class that reaches all",
    ),
    (
        StorageReason.CLAIM_TERMINATING,
        re.compile(r'persistentvolumeclaim "[^"]+" is being deleted'),
        "end the pods that still use it, and create it again, or name another claim in the spec",
    ),
    (
        StorageReason.CLAIM_LOST,
        re.compile(r"bound to non-existent"),
        "its volume is gone: delete the claim, and create it again",
    ),
)

IMAGES = (
    (
        re.compile(r"short[- ]name", re.IGNORECASE),
        "name its registry, such as docker.io/…: engine.image.repository, or the chart's image.registry for the defaults",
    ),
    (
        re.compile(r"no matching manifest for|no match for platform", re.IGNORECASE),
        "name an image for the nodes' CPUs, or choose nodes by podTemplate.spec.nodeSelector (kubernetes.io/arch)",
    ),
    (
        re.compile(r"toomanyrequests|429 Too Many Requests|pull QPS exceeded", re.IGNORECASE),
        "the registry limits pulls: set engine.image.pullSecrets, or use a mirror; it is tried again",
    ),
    (
        re.compile(r"x509:|certificate signed by unknown authority|server gave HTTP response to HTTPS", re.IGNORECASE),
        "have the node's container runtime trust that registry",
    ),
    (
        re.compile(r"no such host|i/o timeout|connection refused|network is unreachable|TLS handshake timeout"),
        "let the nodes reach that registry, or use a mirror in engine.image.repository",
    ),
    (
        re.compile(r"not found|manifest unknown|name unknown|NAME_UNKNOWN", re.IGNORECASE),
        "check engine.image: there is no such image or tag",
    ),
    (
        re.compile(r"unauthorized|authentication required|denied|no basic auth|forbidden|401|403", re.IGNORECASE),
        "check engine.image, and engine.image.pullSecrets for a private registry",
    ),
)
# The kubelet's own, of pkg/kubelet/images: the image can't be had, or not be read.
IMAGE_REASONS = {
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
PASSING = {"ErrImagePull", "RegistryUnavailable"}  # tried again at once; ImagePullBackOff follows
# Reasons of the kubelet's and the storage controllers' Events, passed on as they are.
VOLUME_REASONS = {StorageReason.FAILED_MOUNT, StorageReason.FAILED_ATTACH, StorageReason.FAILED_MAP}
NODE_REASONS = {PodReason.SANDBOX, PodReason.NETWORK, PodReason.PRE_STOP, PodReason.KILL}
DEVICE_REASONS = {PodReason.DEVICES, PodReason.ADMISSION, PodReason.NODE_AFFINITY}
CONTAINER_REASONS = {PodReason.CONFIG, PodReason.CREATE, PodReason.RUN}
UNDER_WAY = {
    "ContainerCreating",
    "PodInitializing",
    "CrashLoopBackOff",
}  # say nothing that is not said better elsewhere
ANY_IMAGE = "check engine.image, and engine.image.pullSecrets for a private registry"


def trouble_of(
    pod: Object,
    plan: Plan,
    nodes: Nodes | None,
    warning: WarningEvent | None = None,
    now: datetime | None = None,
    most_free: Mapping[str, int] = MappingProxyType({}),
) -> Trouble | None:
    """Diagnose a pod; None where it is ready, or ends. `warning` is the last one about it, `now` the server's time,
    `most_free` what nodes have left (`Observed.most_free`)."""
    status: Mapping[str, Any] = pod.get("status", {})
    conditions = by_type(status)
    ready = conditions.get("Ready", {})
    if "deletionTimestamp" in pod["metadata"] or ready.get("status") == "True":
        return None
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and not status.get("containerStatuses"):
        if scheduled.get("reason") == "SchedulingGated":
            gates = ", ".join(str(gate.get("name")) for gate in pod["spec"].get("schedulingGates", ())) or "a gate"
            text = f"held back by {gates}: see the queue (Kueue) or controller that removes it"
            return Trouble(SchedulingReason.GATED, text, stuck=False, rank=6)
        waited, words = _seconds_since(scheduled.get("lastTransitionTime"), now), str(scheduled.get("message", ""))
        if pod["metadata"].get("labels", {}).get(COMPONENT) == PRELOAD:  # it requests no GPU
            return _unplaced(words, waited, warning, _requested(pod))
        return _unscheduled(words, plan, nodes, warning, waited, most_free)
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, NodeShutdown: a new pod takes its place
        text = f"a pod failed: {_short(str(status.get('message', '')))}"
        return Trouble(Foreign(str(status["reason"])), text, stuck=False, rank=6)
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    found = [trouble for container in containers if (trouble := _of_container(container, plan)) is not None]
    if found:
        return min(found, key=lambda trouble: trouble.rank)
    running = [each for each in status.get("containerStatuses", ()) if "running" in each.get("state", {})]
    if running:
        return _unresponsive(running, ready, plan) or _loading(plan)
    if warning is not None and (trouble := _not_started(warning)) is not None:
        return trouble
    return Trouble(StateReason.STARTING, "the pod is being started", stuck=False, rank=9)


def seen_trouble(pod: Object, plan: Plan, observed: Observed) -> Trouble | None:
    """Diagnose a pod by all that was observed."""
    warning = observed.warning_events.get(pod["metadata"]["uid"])
    return trouble_of(pod, plan, observed.nodes, warning, observed.now, observed.most_free)


def _loading(plan: Plan) -> Trouble:
    budget = plan.lifecycle.expected
    return Trouble(StateReason.LOADING_MODEL, f"the model is being loaded; it may take {budget} s", stuck=False, rank=8)


def _unresponsive(running: list[Mapping[str, Any]], ready: Mapping[str, Any], plan: Plan) -> Trouble | None:
    """Diagnose a pod that was ready since its containers started, and is no longer."""
    since = ready.get("lastTransitionTime")
    started = max(str(each["state"]["running"].get("startedAt", "")) for each in running)
    if since is None or not started or str(since) <= started:
        return None
    liveness = plan.lifecycle.liveness
    text = (
        f"a replica that served no longer answers {liveness.path}; the kubelet restarts it once that has lasted for "
        f"{liveness.budget} s: see kubectl logs, and kubectl logs -p after a restart"
    )
    return Trouble(StateReason.UNRESPONSIVE, text, stuck=False, rank=5)


def _not_started(warning: WarningEvent) -> Trouble | None:
    """The Events of the kubelet or the storage's controllers while no container has started."""
    words = _short(warning.note)
    if "Multi-Attach error" in words:
        text = f"its volume is attached to another node: {words}; end the pod that has it, or use a ReadWriteMany claim"
        return Trouble(StorageReason.MULTI_ATTACH, text, stuck=False, rank=4)
    if warning.reason in VOLUME_REASONS:
        if missing := MISSING_OBJECT.search(words):
            text = (
                f"a volume can't be mounted: {missing[0]}; create it, or name another in the spec; the pod then starts"
            )
            return Trouble(StorageReason.FAILED_MOUNT, text, stuck=True, rank=2)
        text = f"a volume can't be mounted: {words}; see the storage's driver on that node"
        return Trouble(StorageReason(warning.reason), text, stuck=False, rank=5)
    if warning.reason in NODE_REASONS:
        text = f"the node can't start the pod: {words}; see its network plugin and container runtime"
        return Trouble(PodReason(warning.reason), text, stuck=False, rank=5)
    if warning.reason in DEVICE_REASONS:
        text = f"the node can't give the pod its devices: {words}; see the device plugin there"
        return Trouble(PodReason(warning.reason), text, stuck=False, rank=5)
    return None


def _of_container(container: Mapping[str, Any], plan: Plan) -> Trouble | None:
    state = container.get("state", {})
    waiting = state.get("waiting", {})
    reason, words = str(waiting.get("reason", "")), _short(str(waiting.get("message", "")))
    if reason in IMAGE_REASONS:
        image = container.get("image") or plan.engine.image
        remedy = next((remedy for pattern, remedy in IMAGES if pattern.search(words)), ANY_IMAGE)
        text = f"the image {image} can't be pulled; {remedy}" + (f" ({words})" if words else "")
        return Trouble(PodReason.IMAGE, text, stuck=reason not in PASSING, rank=1)
    if reason in CONTAINER_REASONS:
        remedy = "create what is missing; the pod then starts by itself" if "not found" in words else "fix the spec"
        return Trouble(
            PodReason(reason), f"{words or 'the container can not be created'}; {remedy}", stuck=True, rank=2
        )
    if reason and reason not in UNDER_WAY:
        text = f"a container waits ({reason})" + (f": {words}" if words else "") + "; see kubectl describe pod"
        return Trouble(Foreign(reason), text, stuck=False, rank=5)
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if ended is not None and (ended.get("exitCode") or container.get("restartCount")):
        return crash_of(ended, plan)
    return None


def crash_of(ended: Mapping[str, Any], plan: Plan) -> Trouble:
    """Diagnose a container that exited, by its `terminated` state."""
    words, code = _short(str(ended.get("message", ""))), int(ended.get("exitCode") or 0)
    if ended.get("reason") == "OOMKilled":
        limit = plan.resources.limits.get("memory")
        has = f"its limit of {limit}" if limit else "the node's memory"
        text = f"the container used more than {has} and was killed; raise resources.limits.memory"
        return Trouble(EngineReason.OOM_KILLED, f"{text}, or lower engine.maxNumSeqs", stuck=True, rank=3)
    if (signature := signature_of(code, f"{ended.get('reason', '')} {words}")) is not None:
        text = f"{words or f'the engine exited with code {code}'}; {signature.remedy}"
        return Trouble(signature.reason, text, stuck=True, rank=3)
    if code in {137, 143} and not words:
        text = f"the engine was killed (exit code {code}) before it answered; see kubectl logs -p"
        return Trouble(EngineReason.CRASHED, text, stuck=True, rank=4)
    text = f"the engine exited with code {code}" + (f": {words}" if words else "") + "; see kubectl logs -p"
    return Trouble(EngineReason.CRASHED, text, stuck=True, rank=4)


def _unscheduled(
    words: str,
    plan: Plan,
    nodes: Nodes | None,
    warning: WarningEvent | None,
    waited: float | None,
    most_free: Mapping[str, int],
) -> Trouble:
    """The scheduler's own words count nodes, and so change by themselves: they are reported only where no better is known.

    What an autoscaler may still change is waited for, until a stated time.
    """
    hardware = plan.hardware
    late = waited is not None and waited >= PATIENCE_S
    patience = "" if late else f"; an autoscaler has {PATIENCE_S // 60} minutes to add one"
    refusal = _autoscaler_note(warning)
    if hardware.gpus and nodes is not None:
        wanted = " or ".join(hardware.products) or hardware.resource_name or "GPUs"
        if not nodes.largest and nodes.obstacles:
            text = f"the nodes with {wanted} take no replica now: {'; '.join(nodes.obstacles)}"
            remedy = "tolerate the taint in podTemplate.spec.tolerations, or free the node"
            return Trouble(SchedulingReason.NO_FREE_GPU, f"{text}; {remedy}{refusal}", stuck=late, rank=5)
        if not nodes.announced:
            text = (
                f"no node announces {hardware.resource_name}: add a node with GPUs, or install NVIDIA's GPU Operator or "
                "device plugin where there is one, or set accelerator.vendor: cpu"
            )
            return Trouble(SchedulingReason.NO_SUCH_GPU, text + patience + refusal, stuck=late, rank=5)
        if not nodes.largest:
            text = f"no node has {wanted}; {_what_nodes_have(nodes)}: add such a node, or change accelerator.products"
            return Trouble(SchedulingReason.NO_SUCH_GPU, text + patience + refusal, stuck=late, rank=5)
        if nodes.largest < hardware.gpus:
            text = (
                f"a replica takes {hardware.gpus} GPUs of one node; the largest has {nodes.largest}: "
                "lower engine.tensorParallelSize, or add a larger node"
            )
            return Trouble(SchedulingReason.TOO_FEW_GPUS, text + patience + refusal, stuck=late, rank=5)
        if nodes.free < hardware.gpus:
            count = "a free GPU" if hardware.gpus == 1 else f"{hardware.gpus} free GPUs on one node"
            text = f"waits for {count} ({wanted}); fewer replicas elsewhere, or another node, would help{refusal}"
            return Trouble(SchedulingReason.NO_FREE_GPU, text, stuck=False, rank=5)
    return _unplaced(words, waited, warning, _asked(words, plan, most_free))


def _unplaced(words: str, waited: float | None, warning: WarningEvent | None, asked: str) -> Trouble:
    """Diagnose by the scheduler's own words: a volume, or else what was `asked` of a node."""
    late = waited is not None and waited >= PATIENCE_S
    shown = _short(words)
    if missing := MISSING_CLAIM.search(words):
        text = f"{missing[0]}; create the claim, or name another in cache.existingClaim"
        return Trouble(StorageReason.CLAIM_MISSING, text, stuck=True, rank=5)
    for reason, pattern, remedy in VOLUMES:
        if pattern.search(words):
            return Trouble(reason, f"{shown}; {remedy}", stuck=late, rank=5)
    if "persistentvolumeclaim" in words.lower():
        text = f"its volume is not there yet: {shown}; see that its storage class exists and can make one"
        return Trouble(StorageReason.VOLUME_NOT_BOUND, text, stuck=False, rank=7)
    text = f"no node will do: {shown}{asked}{_autoscaler_note(warning)}"
    return Trouble(SchedulingReason.UNSCHEDULABLE, text, stuck=late, rank=5)


def _autoscaler_note(warning: WarningEvent | None) -> str:
    """The autoscaler's reason for adding no node, where it gives one."""
    refuses = warning is not None and warning.reason == "NotTriggerScaleUp"
    return f"; it says: {_short(warning.note)}" if warning is not None and refuses else ""


def _requested(pod: Object) -> str:
    """The requests of a download's pod, as kubectl writes them."""
    amounts = [each.get("resources", {}).get("requests", {}) for each in pod["spec"].get("containers", ())]
    asked = " and ".join(f"{name} {amount}" for each in amounts for name, amount in sorted(each.items()))
    return f"; the download requests {asked}: free a node, or change podTemplate.spec" if asked else ""


def _what_nodes_have(nodes: Nodes) -> str:
    known = f"nodes have {', '.join(nodes.products)}" if nodes.products else ""
    if not nodes.unlabelled:
        return known or "no node has any GPU"
    silent = (
        f"{', '.join(nodes.unlabelled)} {'has' if len(nodes.unlabelled) == 1 else 'have'} GPUs and no label that names "
        "them (install NVIDIA's GPU feature discovery, or set accelerator.productLabel, or leave accelerator.products "
        "out)"
    )
    return f"{known}, {silent}" if known else silent


def _seconds_since(time: Any, now: datetime | None) -> float | None:
    if now is None or not time:
        return None
    return (now - datetime.fromisoformat(str(time))).total_seconds()


def _asked(words: str, plan: Plan, most_free: Mapping[str, int]) -> str:
    """The pod's requests of which the scheduler finds too little, with what is free, and the field that lowers them."""
    short = [name for name in ("cpu", "memory", "ephemeral-storage") if f"Insufficient {name}" in words]
    asked = [f"{name} {plan.resources.requests[name]}" for name in short if name in plan.resources.requests]
    if not asked:
        return ""
    fields = " and ".join(f"resources.requests.{name}" for name in short)
    free = " and ".join(f"{name} {_amount(name, most_free[name])}" for name in short if name in most_free)
    left = f", the freest node has {free}" if free else ""
    return f"; a replica requests {' and '.join(asked)}{left}: lower {fields}, or add a node with more"


def _amount(name: str, thousandths: int) -> str:
    """An amount as kubectl writes it, memory rounded down."""
    return f"{thousandths}m" if name == "cpu" else f"{thousandths // 1000 // MIB}Mi"


def _short(words: str) -> str:
    """The end of a message, where engines name the fault, without credentials."""
    words = redacted(" ".join(words.split()))
    return words if len(words) <= LONGEST_WORDS else f"…{words[-LONGEST_WORDS:]}"
