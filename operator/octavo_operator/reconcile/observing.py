"""Reads `Observed` from the API server, afresh for each pass; only a download is remembered, by the status."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from octavo_operator.api.labels import COMPONENT, ENGINE, SERVICE
from octavo_operator.api.names import NamespacedName, cache_claim, preload_job
from octavo_operator.api.observed import Change, Object, Observed, WarningEvent
from octavo_operator.api.resources import AUTOSCALERS, CLAIMS, MONITORS, PODS, Resource
from octavo_operator.api.status import NEVER
from octavo_operator.api.v1alpha1 import MODEL_CONFIG, LLMService
from octavo_operator.cluster.client import Cluster
from octavo_operator.description.sources import Description, annotated
from octavo_operator.errors import ApiError
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.planner.storage import is_narrow, referenced
from octavo_operator.reconcile import downloads, free_gpus
from octavo_operator.reconcile.applying import Outcome, named
from octavo_operator.reconcile.capacity import ClusterCapacity
from octavo_operator.reconcile.capacity_feed import CapacityFeed
from octavo_operator.reconcile.diagnosis.redaction import redacted
from octavo_operator.reconcile.diagnosis.warning_events import last_warning
from octavo_operator.reconcile.kinds_seen import KindsSeen
from octavo_operator.reconcile.scaling import autoscaler_of, running

MOST_ASKED = 4  # pods that are asked about at a time


async def observe(
    cluster: Cluster,
    body: Mapping[str, Any],
    service: LLMService | None,
    feed: CapacityFeed | None,
    kinds: KindsSeen,
) -> Observed:
    """Read what the API server has of a service; `service` is None where its spec can't be read, `feed` where no node
    may be.

    Children of kinds that the service can't have, by `kinds`, are not asked for. What a former service of the same name
    owned is left out: it is about to go.
    Raises ApiError or UnreachableError: a snapshot with holes would be taken for the truth.
    """
    key = NamespacedName(body["metadata"]["namespace"], body["metadata"]["name"])
    # Before anything else is asked for: where nodes and pods are still being listed, this pass comes too early.
    capacity = feed.current() if feed is not None and service is not None and hardware_of(service.spec).gpus else None
    new = (body.get("status") or {}).get("observedGeneration", NEVER) == NEVER
    selector, resources = f"{SERVICE}={key.name}", kinds.to_list(key, service, new=new)
    found, *listed = await asyncio.gather(
        *(_listed(cluster, kind, key.namespace, selector) for kind in (PODS, *resources))
    )
    monitors = dict(zip(resources, listed, strict=True)).get(MONITORS)
    items = [item for each in listed for item in each or ()]
    kinds.note(key, {item["kind"] for item in items})
    kinds.listed(key, resources)
    children = tuple(item for item in items if not is_anothers(item, body["metadata"]["uid"]))
    seen = Observed(children=children)
    deployment: Any = seen.child("Deployment", key.name)
    pods = tuple(sorted(found or (), key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"])))
    pods = tuple(pod for pod in pods if not _is_a_formers(pod, deployment))
    engines = [pod for pod in pods if pod["metadata"]["labels"].get(COMPONENT) == ENGINE]
    claims = () if service is None else await _claims(cluster, key.namespace, seen, referenced(service))
    exclusive = {each["metadata"]["name"] for each in (*children, *claims) if is_narrow(each)}
    nodes, free, left, other = None, None, {}, None
    if service is not None and feed is not None:
        hardware, template = hardware_of(service.spec), service.spec.pod_template
        # All pods of a cluster are many: they are followed only where an answer depends on them.
        seeking = bool(free_gpus.seekers(engines))
        if seeking and capacity is None:
            capacity = feed.current()
        if capacity is not None and seeking:
            left = free_gpus.most_free(template, capacity)
        if capacity is not None and hardware.gpus:
            nodes = free_gpus.nodes_for(hardware, template, capacity)
            free = free_gpus.free_for(hardware, template, capacity, engines)
            needed = free_gpus.most_asked(engines)
            if free < hardware.gpus and needed:
                other = free_gpus.contender(needed, engines, engines, capacity)
    warning_events = await _warning_events(cluster, pods)
    change = _change(deployment, engines, capacity, cluster.now(), exclusive, warning_events)
    claim: Any = seen.child("PersistentVolumeClaim", cache_claim(key.name))
    waits = claim is not None and claim.get("status", {}).get("phase") == "Pending"
    job: Any = seen.child("Job", preload_job(key.name))
    narrow = {each["metadata"]["name"] for each in claims if is_narrow(each)}
    described = _described(key, service)
    return Observed(
        model=described.spec,
        why_unknown=described.why_unknown,
        undescribed=described.undescribed,
        model_bytes=described.size,
        free_gpus=free,
        serving=deployment is not None and bool(deployment.get("status", {}).get("readyReplicas")),
        service_monitors=monitors is not None,
        claim_waits=waits,
        claim_message=await _words(cluster, claim) if claim is not None and waits else "",
        claims=claims,
        downloaded=downloads.remembered(body.get("status")),
        contender="" if other is None else other.name,
        job_waits=job is not None and _has_no_pod(job),
        job_message=await _words(cluster, job) if job is not None and _has_no_pod(job) else "",
        autoscaler=await _autoscaler(cluster, service, deployment, children),
        children=children,
        pods=pods,
        warning_events=warning_events,
        now=cluster.now(),
        holders=await _holders(cluster, key, narrow) if narrow and any(map(free_gpus.is_loading, engines)) else (),
        nodes=nodes,
        most_free=left,
        change=change,
    )


def with_writes(observed: Observed, outcome: Outcome, name: str, feed: CapacityFeed | None, now: datetime) -> Observed:
    """The same after this pass's writes, as the API server answered them: no controller has acted on them yet."""
    children = {named(each): each for each in observed.children if named(each) not in outcome.removed}
    children |= {named(each): each for each in outcome.answers}
    after = replace(observed, children=tuple(children.values()))
    exclusive = {each["metadata"]["name"] for each in (*after.children, *after.claims) if is_narrow(each)}
    known = feed is not None and (observed.nodes is not None or bool(free_gpus.seekers(observed.engines)))
    capacity = feed.last if feed is not None and known else None
    return replace(
        after,
        change=_change(
            after.child("Deployment", name), observed.engines, capacity, now, exclusive, observed.warning_events
        ),
    )


def _change(
    deployment: Object | None,
    engines: Sequence[Any],
    capacity: ClusterCapacity | None,
    now: datetime,
    exclusive: Collection[str],
    warning_events: Mapping[str, WarningEvent],
) -> Change | None:
    """The change that is on its way to the replicas; None where all follow the Deployment."""
    if deployment is None or not free_gpus.is_under_way(deployment):
        return None
    change = free_gpus.change_of(deployment, engines, capacity, now, exclusive)
    seekers = free_gpus.uids(free_gpus.seekers(engines))
    return replace(change, node_comes=any(warning_events[uid].node_comes for uid in seekers if uid in warning_events))


async def _listed(cluster: Cluster, kind: Resource, namespace: str, selector: str) -> list[Any] | None:
    """A kind that a service can do without, and that we may not look at, holds up none: where it is wanted, the API
    server refuses its creation, and that is reported. None where the cluster does not serve ServiceMonitors."""
    try:
        return await cluster.list(kind, namespace, selector)
    except ApiError as error:
        if kind == MONITORS and error.status in {403, 404}:  # 403 whether the kind is known or not
            return [] if error.status == 403 and await cluster.serves(MONITORS) else None
        if error.status == 403 and kind.dispensable:
            return []
        raise


async def _words(cluster: Cluster, thing: Any) -> str:
    warning = await last_warning(cluster, thing)
    return "" if warning is None else redacted(warning.note)


async def _warning_events(cluster: Cluster, pods: Sequence[Any]) -> dict[str, WarningEvent]:
    """Warnings about pods that have not started; about a few of many, because they are alike."""
    waiting = [pod for pod in pods if free_gpus.has_not_started(pod)][-MOST_ASKED:]
    found = await asyncio.gather(*(last_warning(cluster, pod) for pod in waiting))
    return {pod["metadata"]["uid"]: warning for pod, warning in zip(waiting, found, strict=True) if warning is not None}


async def _claims(cluster: Cluster, namespace: str, seen: Observed, names: Iterable[str]) -> tuple[Object, ...]:
    """Claims that the manifest names and that are not the service's own."""
    others = [name for name in names if seen.child("PersistentVolumeClaim", name) is None]
    found = await asyncio.gather(*(cluster.get(CLAIMS, namespace, name) for name in others))
    return tuple(claim for claim in found if claim is not None)


async def _holders(cluster: Cluster, key: NamespacedName, claims: set[str]) -> tuple[Object, ...]:
    """Pods of other workloads that hold one of the claims; only while a replica has not started, which may wait for one."""
    return tuple(
        pod
        for pod in await cluster.list(PODS, key.namespace)
        if pod["metadata"].get("labels", {}).get(SERVICE) != key.name and free_gpus.claims_of(pod) & claims
    )


async def _autoscaler(
    cluster: Cluster, service: LLMService | None, deployment: Any, children: Sequence[Any]
) -> str | None:
    """Another's is looked for only where the number is not the manifest's: it is of no consequence before."""
    if service is None or deployment is None:
        return None
    name, spec = service.metadata.name, service.spec
    autoscalers = [child for child in children if child["kind"] == AUTOSCALERS.kind]
    if spec.autoscaling is None and running(deployment) != spec.replicas:
        autoscalers = await cluster.list(AUTOSCALERS, service.metadata.namespace)
    return autoscaler_of(name, autoscalers)


def is_anothers(child: Object, uid: str) -> bool:
    """True if an object has an owner other than the service."""
    return any(
        owner.get("controller") and owner["uid"] != uid for owner in child["metadata"].get("ownerReferences", ())
    )


def _is_a_formers(pod: Object, deployment: Object | None) -> bool:
    """A replica that is older than the Deployment was made by one that is gone."""
    if pod["metadata"]["labels"].get(COMPONENT) != ENGINE:
        return False
    metadata = pod["metadata"]
    return deployment is None or metadata["creationTimestamp"] < deployment["metadata"]["creationTimestamp"]


def _has_no_pod(job: Object) -> bool:
    """True if a Job goes on without a pod: the API server rejects it."""
    return downloads.finished(job) is None and not job.get("status", {}).get("active")


def _described(key: NamespacedName, service: LLMService | None) -> Description:
    """Describe the model by the manifest alone: the operator uses no hub, and has no right to a gated model's token."""
    if service is not None and (described := annotated(service.metadata.annotations)) is not None:
        return described
    scheme = "" if service is None else service.spec.model.uri.scheme
    if scheme in {"package", "file"}:
        return Description(
            None, f"the operator reads no {scheme}; octavo plan -f FILE does where it lies on the machine"
        )
    annotate = f'kubectl annotate llms -n {key.namespace} {key.name} {MODEL_CONFIG}="$(cat config.json)"'
    return Description(
        None, f"the operator asks no hub for it; octavo plan -f FILE does, and {annotate} gives it to the operator"
    )
