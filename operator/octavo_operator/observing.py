"""From the API server to `Observed`: asked anew each time, nothing is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from octavo_operator.api.placement import Accelerator
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import MODEL_CONFIG, LLMService
from octavo_operator.cluster import Cluster, Object
from octavo_operator.description import Description, annotated
from octavo_operator.labels import COMPONENT, ENGINE, SERVICE
from octavo_operator.observed import Nodes, Observed
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.planner.plan import Hardware
from octavo_operator.resources import CHILDREN, EVENTS, MONITORS, NODES, PODS
from octavo_operator.work_queue import Key


async def observe(cluster: Cluster, key: Key, service: LLMService | None, *, sees_nodes: bool) -> Observed:
    """What the API server has of a service; `service` is None where its spec can't be read.

    Raises ApiError or UnreachableError: a snapshot with holes would be taken for the truth.
    """
    selector = f"{SERVICE}={key.name}"
    monitors = await cluster.serves(MONITORS)
    kinds = (*CHILDREN, *([MONITORS] if monitors else []))
    found = await asyncio.gather(*(cluster.list(kind, key.namespace, selector) for kind in (*kinds, PODS)))
    children = tuple(item for items in found[:-1] for item in items)
    pods = tuple(sorted(found[-1], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"])))
    nodes = None
    if service is not None and sees_nodes:
        hardware = hardware_of(service.spec)
        if hardware.cards:
            nodes = await _nodes(cluster, hardware, service.spec.accelerator or Accelerator())
    seen = Observed(children=children)
    claim = seen.child("PersistentVolumeClaim", f"{key.name}-cache")
    waits = claim is not None and claim.get("status", {}).get("phase") == "Pending"
    described = _described(key, service)
    return Observed(
        model=described.spec,
        why_unknown=described.why_unknown,
        free_cards=None if nodes is None else nodes.free,
        serving=any(_is_ready(pod) for pod in pods if pod["metadata"]["labels"].get(COMPONENT) == ENGINE),
        service_monitors=monitors,
        claim_access_mode=None if claim is None else claim["spec"]["accessModes"][0],
        claim_waits=waits,
        claim_words=await _words_about(cluster, key.namespace, f"{key.name}-cache") if waits else "",
        children=children,
        pods=pods,
        nodes=nodes,
    )


def _described(key: Key, service: LLMService | None) -> Description:
    """By the manifest alone: the operator asks no hub, and has no right to the token of a gated model."""
    if service is not None and (told := annotated(service.metadata.annotations)) is not None:
        return told
    telling = f'kubectl annotate llms {key.name} {MODEL_CONFIG}="$(cat config.json)" tells the operator'
    return Description(None, f"its config.json is not asked for; octavo plan -f FILE does, and {telling}")


async def _words_about(cluster: Cluster, namespace: str, claim: str) -> str:
    """Why a claim has no volume, as its provisioner said last; empty where it says no more than that it is at it."""
    about = f"regarding.kind=PersistentVolumeClaim,regarding.name={claim}"
    said = [
        (
            str(event.get("deprecatedLastTimestamp") or event["metadata"]["creationTimestamp"]),
            str(event.get("note", "")),
        )
        for event in await cluster.list(EVENTS, namespace, fields=about)
        if event.get("type") == "Warning" or event.get("reason") == "FailedBinding"
    ]
    return max(said, default=("", ""))[1]


async def _nodes(cluster: Cluster, hardware: Hardware, accelerator: Accelerator) -> Nodes:
    """Cards that a further replica of the service could have: those of its own pods count as taken."""
    nodes, pods = await asyncio.gather(cluster.list(NODES), cluster.list(PODS))
    assert hardware.resource_name is not None
    taken: dict[str, int] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
            taken[node] = taken.get(node, 0) + _cards_of(pod, hardware.resource_name)
    free, largest, products = 0, 0, set()
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        count = _amount(node.get("status", {}).get("allocatable", {}), hardware.resource_name)
        product = labels.get(hardware.product_label)
        if count and product:
            products.add(product)
        if accelerator.products and product not in accelerator.products:
            continue
        if node["spec"].get("unschedulable"):
            continue
        largest = max(largest, count)
        free = max(free, count - taken.get(node["metadata"]["name"], 0))
    return Nodes(free, largest, tuple(sorted(products)))


def _cards_of(pod: Object, resource: str) -> int:
    containers: Sequence[Mapping[str, Any]] = pod["spec"].get("containers", ())
    return sum(_amount(container.get("resources", {}).get("limits", {}), resource) for container in containers)


def _amount(amounts: Mapping[str, str], resource: str) -> int:
    return int(Quantity(str(amounts.get(resource, "0"))))


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))
