"""Marks the replica that a scale-in should take: the one whose requests are done soonest.

A ReplicaSet that shrinks takes the pod with the lowest `controller.kubernetes.io/pod-deletion-cost` among those that
are Ready. Only one pod of a service bears our mark, only while it has more replicas than its autoscaler's minimum, and
the mark moves only when another pod is clearly cheaper: an idle service is never written to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import aiohttp

from octavo_operator.api.labels import OF_CHILDREN, SERVICE, selector_text
from octavo_operator.api.resources import AUTOSCALERS, PODS
from octavo_operator.cluster.client import Cluster, Object
from octavo_operator.errors import ApiError, OperatorError
from octavo_operator.metrics_api.catalog import RUNNING, WAITING
from octavo_operator.metrics_api.engines import EnginePod, engine_of
from octavo_operator.metrics_api.scraper import ScrapeError, scrape
from octavo_operator.repeating import repeat

PERIOD_S = 20.0
AT_ONCE = 8  # services
COST = "controller.kubernetes.io/pod-deletion-cost"
CHEAPEST = "-1"  # a pod without the annotation costs 0
MANAGER = "octavo-scale-in"

log = logging.getLogger(__name__)


def candidate(loads: Mapping[str, float], marked: str | None) -> str | None:
    """The pod to take, of their requests by name: the one that is marked, unless another has less than half of its.

    None of fewer than two: there is no choice.
    """
    if len(loads) < 2:
        return None
    best = min(loads, key=lambda name: (loads[name], name))
    if marked is not None and marked in loads and loads[marked] <= 2 * loads[best] + 1:
        return marked
    return best


class ScaleIn:
    """Marks idle pods for scale-in, while this replica leads; for some namespaces, or all."""

    def __init__(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        self._cluster = cluster
        self._namespaces: Iterable[str | None] = namespaces or (None,)

    async def run(self) -> None:
        # One that hangs costs its own deadline; connections are not kept, for the next look is far off.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            what = "which replica a scale-in should take can't be determined"
            await repeat(partial(self._look, session), lambda: PERIOD_S, what, begin_after=PERIOD_S)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        """Handle some services at once: a replica that hangs delays its own service alone."""
        at_once = asyncio.Semaphore(AT_ONCE)

        async def mark(namespace: str, service: str) -> None:
            async with at_once:
                try:
                    await self._mark(session, namespace, service)
                except OperatorError as error:
                    about = {"about": {"namespace": namespace, "name": service}}
                    log.warning("which replica a scale-in should take can't be determined: %s", error, extra=about)

        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                for autoscaler in await self._cluster.list(AUTOSCALERS, namespace, OF_CHILDREN):
                    replicas = autoscaler.get("status", {}).get("currentReplicas", 0)
                    if replicas > autoscaler["spec"].get("minReplicas", 1):
                        metadata = autoscaler["metadata"]
                        group.create_task(mark(metadata["namespace"], metadata["labels"][SERVICE]))

    async def _mark(self, session: aiohttp.ClientSession, namespace: str, service: str) -> None:
        pods = await self._cluster.list(PODS, namespace, selector_text(service))
        engines = [engine for pod in pods if (engine := engine_of(pod)) is not None]
        found = await asyncio.gather(*(_load(session, engine) for engine in engines))
        loads = {engine.name: load for engine, load in zip(engines, found, strict=True) if load is not None}
        marked = [pod for pod in pods if pod["metadata"].get("annotations", {}).get(COST) == CHEAPEST]
        names = [pod["metadata"]["name"] for pod in marked]
        chosen = candidate(loads, names[0] if names else None)
        if chosen is None or names == [chosen]:
            return
        for pod in pods:
            name = pod["metadata"]["name"]
            if name == chosen and name not in names:
                await self._write(pod, {COST: CHEAPEST})
            elif name != chosen and name in names:
                await self._write(pod, {})

    async def _write(self, pod: Object, annotations: Mapping[str, str]) -> None:
        """Apply by a field manager of its own, without force: a cost in the pod template is a person's."""
        metadata = pod["metadata"]
        identity = {key: metadata[key] for key in ("name", "namespace", "uid")}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {**identity, "annotations": dict(annotations)}}
        try:
            await self._cluster.apply(PODS, body, manager=MANAGER, force=False)
        except ApiError as error:
            if error.status not in {404, 409}:  # gone, or a person's
                raise


async def _load(session: aiohttp.ClientSession, engine: EnginePod) -> float | None:
    """Requests that run and wait; None where the metrics lack them."""
    try:
        samples = await scrape(session, engine)
    except ScrapeError:
        return None
    found = [each.value for source in (*RUNNING, *WAITING) for each in samples.get(source, ())]
    return sum(found) if found else None
