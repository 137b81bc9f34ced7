"""Keeps the process's one `ClusterCapacity` current, from when it is first needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from octavo_operator.api.resources import NODES, PODS
from octavo_operator.cluster.client import Cluster
from octavo_operator.cluster.mirror import Change, Mirror
from octavo_operator.errors import NotListedYetError, UnreachableError
from octavo_operator.reconcile.capacity import ClusterCapacity, NodeFacts, PodFacts, node_facts, pod_facts

PATIENCE_S = 60.0  # ten thousand pods are a hundred requests
UNENDED = "status.phase!=Succeeded,status.phase!=Failed"


class CapacityFeed:
    """A cluster of services without GPUs never lists a node or a pod that is not its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._capacity = ClusterCapacity()
        self._nodes = Mirror(cluster, NODES, node_facts, self._nodes_changed)
        self._pods = Mirror(cluster, PODS, pod_facts, self._pods_changed, fields=UNENDED)
        self._needed = asyncio.Event()
        self._tried = asyncio.Event()

    async def run(self) -> None:
        """Follows nodes and pods once `current` has been asked for."""
        await self._needed.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._nodes.run())
            group.create_task(self._pods.run())
            group.create_task(self._await_lists())

    async def tried(self) -> None:
        """Returns once nodes and pods have been listed for the first time, or could not be."""
        await self._tried.wait()

    def current(self) -> ClusterCapacity:
        """The capacity as the API server has it now.

        Raises:
            NotListedYetError: the first lists are not complete: try again after `tried`.
            ApiError: the operator may not list or watch nodes or pods.
            UnreachableError: nodes or pods could not be listed, or their watch has fallen silent.
        """
        self._needed.set()
        if not self._tried.is_set():
            raise NotListedYetError("the cluster's nodes and pods are being listed")
        now = time.monotonic()
        for mirror, what in ((self._nodes, "nodes"), (self._pods, "pods")):
            if mirror.is_current(now):
                continue
            if mirror.refusal is not None:
                raise mirror.refusal
            raise UnreachableError(f"the cluster's {what} are not known at present: {mirror.trouble}")
        return self._capacity

    @property
    def last(self) -> ClusterCapacity:
        """The capacity as it was last seen, for a pass that began while it was current."""
        return self._capacity

    async def _await_lists(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._nodes.answered()
                await self._pods.answered()
        except TimeoutError:
            pass
        self._tried.set()

    def _nodes_changed(self, changes: Sequence[Change[NodeFacts]]) -> None:
        for before, after in changes:
            if after is not None:
                self._capacity.keep_node(after)
            elif before is not None:
                self._capacity.forget_node(before.name)

    def _pods_changed(self, changes: Sequence[Change[PodFacts]]) -> None:
        for before, after in changes:
            if before is not None and (after is None or after.uid != before.uid):
                self._capacity.forget_pod(before.uid)
            if after is not None:
                self._capacity.keep_pod(after)
