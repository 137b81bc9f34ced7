"""Warnings before an apply, each with what avoids it.

The common mistakes of a first deployment are answered here or by a default: memory utilization, tensor-parallel
size, /dev/shm, the model cache, the context's length, the single replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.demand import Demand
from octavo_operator.planner.given_flags import values
from octavo_operator.planner.plan import CachePlan, Fit, Hardware, RolloutPlan, Scale
from octavo_operator.planner.sizes import GIB, gib, human
from octavo_operator.planner.storage import FETCHED, claim_size

BATCHES = "--batch-dir"
SCALE_UP_DELAY = "cluster-autoscaler.kubernetes.io/pod-scale-up-delay"


@dataclass(frozen=True, slots=True)
class CheckInput:
    """The input of the checks."""

    service: LLMService
    demand: Demand | None
    model_bytes: int | None
    fit: Fit
    hardware: Hardware
    scale: Scale
    cache: CachePlan | None
    rollout: RolloutPlan
    drain: int
    grace: int
    longest_generation: int
    shared_memory: int
    memory_limit: int | None


def warnings(case: CheckInput) -> tuple[str, ...]:
    """Sentences, the gravest first."""
    checks = (
        _one_replica,
        _making_way,
        _nodes_for_a_drain,
        _downloads_again,
        _context,
        _vision,
        _gpus,
        _utilization,
        _shared_memory,
        _largest_requests,
        _no_limit,
        _volume,
        _drain,
        _batches,
        _open,
    )
    return tuple(sentence for check in checks for sentence in check(case))


def _one_replica(case: CheckInput) -> Iterator[str]:
    if case.service.spec.suspend or case.scale.minimum != 1:
        return
    field = "replicas" if case.scale.replicas is not None else "autoscaling.minReplicas"
    if case.scale.replicas is None and case.scale.maximum == 1:
        field = "autoscaling.minReplicas and maxReplicas"
    rollout = " and so is each change" if case.rollout.strategy == "InPlace" else ""
    pool = ""
    if rollout and case.rollout.momentary:
        pool = ", and in a pool of nodes that grows rollout.strategy: Surge"
    yield f"one replica: an eviction is an outage{rollout}; {field}: 2 would avoid it{pool}"


def _nodes_for_a_drain(case: CheckInput) -> Iterator[str]:
    """A successor waits from when its predecessor begins to drain: see docs/decisions/0017."""
    if case.hardware.gpus and case.rollout.strategy == "InPlace" and case.scale.maximum > 1:
        yield (
            f"in place, a new replica is Pending while an old one drains, up to {case.grace} s: an autoscaler may add a "
            f"node for it; podTemplate.metadata.annotations: {{{SCALE_UP_DELAY}: {case.grace}s}} has the cluster "
            "autoscaler wait, rollout.strategy: Surge uses the node instead"
        )


def _making_way(case: CheckInput) -> Iterator[str]:
    """Given while other capacity can still be freed."""
    if case.rollout.waits and not case.rollout.held:
        outage = ", an outage until the new one has loaded its model" if case.scale.maximum == 1 else ""
        yield (
            f"no node has capacity for a new replica: if none has within {case.rollout.patience} s, an old one makes way{outage}; "
            "fewer replicas elsewhere, or another node, would avoid it"
        )


def _downloads_again(case: CheckInput) -> Iterator[str]:
    uri = case.service.spec.model.uri
    if case.cache is None and uri.scheme in FETCHED:
        size = "the model" if case.model_bytes is None else human(case.model_bytes)
        yield f"no cache: each new pod downloads {size} again; cache: {{}} keeps it on a volume"


def _batches(case: CheckInput) -> Iterator[str]:
    if BATCHES in values(case.service.spec.engine.args) and case.scale.maximum > 1:
        yield (
            f"engine.args: {BATCHES} gives each replica files and batches of its own, and the Service sends a client to any "
            "of them; run one replica, or a service of one replica for batches"
        )


def _vision(case: CheckInput) -> Iterator[str]:
    if case.demand is not None and case.hardware.gpus and case.demand.vision_is_unknown:
        yield (
            "the size of the model's vision half is not known from its config, and its weights are not counted; "
            "where its pods run out of GPU memory, a smaller engine.maxModelLen leaves memory for them"
        )


def _context(case: CheckInput) -> Iterator[str]:
    engine, demand, budget = case.service.spec.engine, case.demand, case.fit.budget
    if engine.max_model_len is not None:
        return
    if demand is None:
        yield "engine.maxModelLen is not set and the model's own limit is not known; a long one takes the KV cache's memory"
    elif case.hardware.gpus and budget is not None and 0 < budget.sequences < 8:
        yield (
            f"engine.maxModelLen is not set: at the model's own {demand.max_model_len} tokens "
            f"{budget.sequences} full sequences fit at once; a lower one serves more"
        )


def _gpus(case: CheckInput) -> Iterator[str]:
    """GPUs that a smaller tensor-parallel size would free, with room for as many sequences as may run."""
    engine, demand, budget = case.service.spec.engine, case.demand, case.fit.budget
    if demand is None or budget is None or case.fit.state != "True" or engine.tensor_parallel_size == 1:
        return
    for size in demand.sizes(engine.tensor_parallel_size - 1):
        smaller = demand.budget(budget.capacity, engine.gpu_memory_utilization, size, budget.product)
        if smaller.sequences >= max(8, engine.min_concurrency):
            yield (
                f"tensorParallelSize {engine.tensor_parallel_size} where {size} holds {smaller.sequences} "
                f"sequences: it answers sooner, but replicas of {size} serve more with the same GPUs"
            )
            return


def _utilization(case: CheckInput) -> Iterator[str]:
    share, budget = case.service.spec.engine.gpu_memory_utilization, case.fit.budget
    if not case.hardware.gpus:
        return
    if budget is not None and budget.shares > 1:
        if share * budget.shares > 1:
            yield (
                f"{budget.product} is shared by {budget.shares} pods, and engine.gpuMemoryUtilization {share:g} counts "
                f"of the whole GPU: set engine.gpuMemoryUtilization: {math.floor(100 / budget.shares) / 100:g}, or other "
                "pods on it run out of memory"
            )
        return
    if share < 0.85:
        idle = f", {gib(budget.kept_free)} GiB of each GPU," if budget else ""
        yield f"gpuMemoryUtilization {share:g} leaves memory{idle} unused; 0.85 to 0.95 is usual"
    elif share > 0.95:
        yield f"gpuMemoryUtilization {share:g} leaves nothing for peaks; out-of-memory is likely above 0.95"


def _shared_memory(case: CheckInput) -> Iterator[str]:
    given = case.service.spec.shared_memory
    if given is not None and case.hardware.gpus > 1 and int(given) < GIB:
        yield f"sharedMemory {given} is little for {case.hardware.gpus} GPUs; NCCL crashes under load without enough"
    if case.memory_limit is not None and case.shared_memory * 2 > case.memory_limit:
        yield (
            f"shared memory may take {human(case.shared_memory)} of the container's {human(case.memory_limit)}: "
            "it counts as the container's own"
        )


def _largest_requests(case: CheckInput) -> Iterator[str]:
    demand = case.demand
    if demand is None or demand.limits.request_bytes >= demand.request_peak:
        return
    kept, peak = demand.limits.request_bytes, demand.request_peak
    yield (
        f"the container's memory leaves {human(kept)} for the largest requests that the server admits, which may take "
        f"{human(peak)}: one that does would end the pod; raise resources.limits.memory by {human(peak - kept)}"
    )


def _no_limit(case: CheckInput) -> Iterator[str]:
    if not case.hardware.gpus and case.demand is None and case.memory_limit is None:
        yield (
            "no memory limit: what the model takes is not known here, so that a replica may take all that its node has; "
            "resources.limits.memory sets one"
        )


def _volume(case: CheckInput) -> Iterator[str]:
    cache = case.cache
    if cache is None:
        return
    if cache.access_mode == "ReadWriteOncePod" and case.scale.maximum > 1:
        yield (
            f"the claim {cache.claim} is ReadWriteOncePod, which one pod at a time may have: of {case.scale.maximum} replicas "
            "one starts; ReadWriteMany serves several"
        )
    elif cache.create and cache.colocated and case.scale.maximum > 1:
        yield (
            f"cache.accessMode {cache.access_mode} ties all {case.scale.maximum} replicas to one node; "
            "ReadWriteMany spreads them"
        )
    asked = case.service.spec.cache
    if cache.create and asked is not None and asked.access_mode is None and cache.access_mode == "ReadWriteMany":
        yield (
            f"cache.accessMode is not set, and ReadWriteMany is claimed for {case.scale.maximum} replicas, which disks (EBS, "
            "GCE PD, Azure Disk, local-path) refuse: name a class that shares files in cache.storageClassName, or set "
            "cache.accessMode: ReadWriteOnce to keep the replicas on one node"
        )
    if case.model_bytes is not None and cache.size is not None:
        size = case.model_bytes
        if int(Quantity(cache.size)) < size:
            enough = f"cache.size: {claim_size(size)} is enough"
            yield f"cache.size {cache.size} is less than the model's {human(size)}; {enough}"
    elif case.model_bytes is None and cache.create and asked is not None and asked.size is None:
        yield f"the model's size is not known: {cache.size} is claimed for it; cache.size sets it"


def _drain(case: CheckInput) -> Iterator[str]:
    if case.drain < case.longest_generation and case.scale.maximum > 0:
        yield (
            f"a replica that ends cuts off answers after {case.drain} s; the longest may take "
            f"{case.longest_generation} s (rollout.drainTimeout, or a lower engine.maxModelLen)"
        )


def _open(case: CheckInput) -> Iterator[str]:
    spec = case.service.spec
    if spec.service.type != "ClusterIP" and spec.auth.api_keys is None:
        yield f"service.type {spec.service.type} without auth.apiKeys answers every client that reaches it"
    policy = spec.network_policy
    elsewhere = spec.monitoring.namespace or any(
        "namespaceSelector" in peer or "ipBlock" in peer for peer in policy.allow_from
    )
    if policy.enabled and spec.monitoring.service_monitor != "Disabled" and not elsewhere:
        yield (
            "networkPolicy shuts out a Prometheus in another namespace: name it in monitoring.namespace, or in "
            "networkPolicy.allowFrom"
        )
    if spec.network_policy.allow_from and not spec.network_policy.enabled:
        yield "networkPolicy.allowFrom has no effect while networkPolicy.enabled is false"
