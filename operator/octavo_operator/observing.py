"""From the API server to `Observed`: asked anew each time, nothing is remembered."""

from __future__ import annotations

import asyncio

from octavo_operator import room
from octavo_operator.api.v1alpha1 import MODEL_CONFIG, LLMService
from octavo_operator.capacity_feed import CapacityFeed
from octavo_operator.claim_events import words_about
from octavo_operator.cluster import Cluster
from octavo_operator.description import Description, annotated
from octavo_operator.labels import COMPONENT, ENGINE, SERVICE
from octavo_operator.observed import Object, Observed
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.resources import CHILDREN, MONITORS, PODS
from octavo_operator.work_queue import Key


async def observe(cluster: Cluster, key: Key, service: LLMService | None, feed: CapacityFeed | None) -> Observed:
    """What the API server has of a service; `service` is None where its spec can't be read, `feed` where no node may be.

    Raises ApiError or UnreachableError: a snapshot with holes would be taken for the truth.
    """
    selector = f"{SERVICE}={key.name}"
    monitors = await cluster.serves(MONITORS)
    kinds = (*CHILDREN, *([MONITORS] if monitors else []))
    found = await asyncio.gather(*(cluster.list(kind, key.namespace, selector) for kind in (*kinds, PODS)))
    children = tuple(item for items in found[:-1] for item in items)
    pods = tuple(sorted(found[-1], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"])))
    engines = [pod for pod in pods if pod["metadata"]["labels"].get(COMPONENT) == ENGINE]
    seen = Observed(children=children)
    deployment = seen.child("Deployment", key.name)
    if deployment is not None and not room.is_under_way(deployment):
        deployment = None
    nodes, free = None, None
    capacity = None
    if service is not None and feed is not None:
        hardware, template = hardware_of(service.spec), service.spec.pod_template
        # All pods of a cluster are many: they are followed only where an answer depends on them.
        if hardware.cards or (deployment is not None and room.seekers(engines)):
            capacity = await feed.current()
        if capacity is not None and hardware.cards:
            nodes = room.nodes_for(hardware, template, capacity)
            free = room.nodes_for(hardware, template, capacity, room.ending(engines)).free
    change = None if deployment is None else room.change_of(deployment, engines, capacity, cluster.now())
    claim = seen.child("PersistentVolumeClaim", f"{key.name}-cache")
    waits = claim is not None and claim.get("status", {}).get("phase") == "Pending"
    described = _described(key, service)
    return Observed(
        model=described.spec,
        why_unknown=described.why_unknown,
        model_bytes=described.size,
        free_cards=free,
        serving=any(_is_ready(pod) for pod in engines),
        service_monitors=monitors,
        claim_access_mode=None if claim is None else claim["spec"]["accessModes"][0],
        claim_size=None if claim is None else claim["spec"]["resources"]["requests"]["storage"],
        claim_waits=waits,
        claim_words=await words_about(cluster, key.namespace, f"{key.name}-cache") if waits else "",
        children=children,
        pods=pods,
        nodes=nodes,
        change=change,
    )


def _described(key: Key, service: LLMService | None) -> Description:
    """By the manifest alone: the operator asks no hub, and has no right to the token of a gated model."""
    if service is not None and (told := annotated(service.metadata.annotations)) is not None:
        return told
    why = "the operator asks no hub for it; octavo plan -f FILE does"
    if service is not None and service.spec.model.uri.scheme not in {"package", "file"}:
        annotate = f'kubectl annotate llms -n {key.namespace} {key.name} {MODEL_CONFIG}="$(cat config.json)"'
        why += f", and {annotate} tells the operator"
    return Description(None, why)


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))
