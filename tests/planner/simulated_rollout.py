"""A Deployment's controller, a scheduler and kubelets in forty lines each: enough to walk a whole rollout.

The rules are those of Kubernetes' own rolling update (pkg/controller/deployment/rolling.go): what it may create, which
unhealthy old replicas it removes first, and how many healthy ones it may take away. The scheduler counts by itself: it
asks nothing of the code under test.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from octavo_operator.api.observed import Observed
from octavo_operator.planner.plan import Hardware, RolloutPlan, Scale
from octavo_operator.planner.rollout import choose
from octavo_operator.reconcile import free_gpus
from octavo_operator.reconcile.capacity import ClusterCapacity

GPU = "nvidia.com/gpu"
TICK_S = 5
LOAD_TICKS = 3  # until a replica that has a node answers, where a test does not say longer
DRAIN_TICKS = 4  # for which one that ends keeps its GPUs


class Simulation:
    """Nodes with so many GPUs each; `step` lets five seconds pass."""

    def __init__(
        self, nodes: list[int], *, replicas: int, gpus: int = 1, strategy: str = "Auto", load_ticks: int = LOAD_TICKS
    ) -> None:
        self.nodes = [_node(f"node-{number}", count) for number, count in enumerate(nodes)]
        self.replicas, self.gpus, self.strategy, self.load_ticks = replicas, gpus, strategy, load_ticks
        self.pods: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.revision = 0
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.plan: RolloutPlan | None = None
        self.least_ready = replicas
        self._count = 0

    def deploy(self) -> None:
        """The first revision, all of it ready."""
        self.walk()
        self.least_ready = self.ready

    def edit(self, *, gpus: int | None = None) -> None:
        self.plan = self._choose()
        self.revision += 1
        self.gpus = gpus or self.gpus

    def occupy(self, node: int, gpus: int) -> None:
        """Another workload takes GPUs."""
        self.others.append(self._pod(gpus, revision=-1, node=f"node-{node}"))

    def leave(self) -> None:
        self.others.clear()

    def walk(self, ticks: int = 200) -> int:
        """Steps until the rollout has been over for a while, or `ticks`; how many it took."""
        over = 0
        for tick in range(ticks):
            over = over + 1 if self.is_over else 0
            if over > self.load_ticks:
                return tick
            self.step()
        return ticks

    @property
    def is_over(self) -> bool:
        return len(self.pods) == self.replicas and all(
            pod["revision"] == self.revision and "deletionTimestamp" not in pod["metadata"] for pod in self.pods
        ) and all(_is_ready(pod) or not pod["spec"].get("nodeName") for pod in self.pods)  # fmt: skip

    @property
    def ready(self) -> int:
        return sum(_is_ready(pod) for pod in self.staying)

    @property
    def staying(self) -> list[dict[str, Any]]:
        return [pod for pod in self.pods if "deletionTimestamp" not in pod["metadata"]]

    def step(self) -> None:
        self.now += timedelta(seconds=TICK_S)
        self.plan = self._choose()
        self._control(self.plan)
        self._schedule()
        self._run()
        self.least_ready = min(self.least_ready, self.ready)

    def _choose(self) -> RolloutPlan:
        hardware = Hardware("nvidia", self.gpus, GPU, ()) if self.gpus else _CPU
        capacity = self._capacity()
        nodes = free_gpus.nodes_for(hardware, {}, capacity, free_gpus.ending(self.pods)) if self.gpus else None
        deployment, change = self._deployment(), None
        if free_gpus.is_under_way(deployment):
            change = free_gpus.change_of(deployment, self.pods, capacity, self.now)
        observed = Observed(free_gpus=None if nodes is None else nodes.free, change=change)
        return choose(self.strategy, hardware, observed, Scale(self.replicas, self.replicas, self.replicas, None), {})

    def _capacity(self) -> ClusterCapacity:
        return ClusterCapacity(self.nodes, [*self.pods, *self.others])

    def _deployment(self) -> dict[str, Any]:
        new = [pod for pod in self.staying if pod["revision"] == self.revision]
        status = {"replicas": len(self.staying), "updatedReplicas": len(new), "readyReplicas": self.ready}
        surge = self.plan.max_surge if self.plan else 0
        return {
            "metadata": {},
            "spec": {"replicas": self.replicas, "strategy": {"rollingUpdate": {"maxSurge": surge}}},
            "status": {**status, "observedGeneration": 1},
        }

    def _control(self, plan: RolloutPlan) -> None:
        old = [pod for pod in self.staying if pod["revision"] != self.revision]
        new = [pod for pod in self.staying if pod["revision"] == self.revision]
        if plan.recreate:
            self._end(old, len(old))
            if not any(pod["revision"] != self.revision for pod in self.pods):
                self._create(self.replicas - len(new))
            return
        self._create(min(self.replicas - len(new), self.replicas + plan.max_surge - len(self.staying)))
        new = [pod for pod in self.staying if pod["revision"] == self.revision]
        least = self.replicas - plan.max_unavailable
        spare = len(self.staying) - least - sum(not _is_ready(pod) for pod in new)
        unhealthy = [pod for pod in old if not _is_ready(pod)]
        self._end(unhealthy, max(0, spare))
        healthy = [pod for pod in self.staying if pod["revision"] != self.revision and _is_ready(pod)]
        self._end(healthy, min(self.ready - least, spare))

    def _create(self, count: int) -> None:
        for _ in range(count):
            self.pods.append(self._pod(self.gpus, self.revision))

    def _end(self, pods: list[dict[str, Any]], count: int) -> None:
        for pod in pods[: max(0, count)]:
            if pod["spec"].get("nodeName"):
                pod["metadata"]["deletionTimestamp"] = "now"
                pod["left"] = DRAIN_TICKS
            else:
                self.pods.remove(pod)

    def _schedule(self) -> None:
        for pod in self.staying:
            if pod["spec"].get("nodeName"):
                continue
            node = next((node for node in self.nodes if self._fits(node, pod)), None)
            if node is not None:
                pod["spec"]["nodeName"], pod["left"] = node["metadata"]["name"], self.load_ticks
                pod["status"]["conditions"] = []
            elif not pod["status"]["conditions"]:
                since = self.now.isoformat().replace("+00:00", "Z")
                condition = {"type": "PodScheduled", "status": "False", "lastTransitionTime": since}
                pod["status"]["conditions"] = [condition]

    def _fits(self, node: dict[str, Any], pod: dict[str, Any]) -> bool:
        """True if a node has what a pod requests beside what is bound there; a pod that ends keeps its own until then."""
        name, allocatable = node["metadata"]["name"], node["status"]["allocatable"]
        bound = [other for other in (*self.pods, *self.others) if other["spec"].get("nodeName") == name]
        sums = Counter(pods=1 + len(bound))
        for each in (pod, *bound):
            sums.update({resource: int(amount) for resource, amount in _requests(each).items()})
        return all(sums[resource] <= int(allocatable[resource]) for resource in ("pods", *_requests(pod)))

    def _run(self) -> None:
        for pod in list(self.pods):
            pod["left"] = pod.get("left", 0) - 1
            if pod["left"] > 0 or not pod["spec"].get("nodeName"):
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self.pods.remove(pod)
            else:
                pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]

    def _pod(self, gpus: int, revision: int, node: str | None = None) -> dict[str, Any]:
        self._count += 1
        requests = {GPU: str(gpus), "cpu": "1"} if gpus else {"cpu": "1"}
        return {
            "metadata": {"uid": self._count, "labels": {free_gpus.REVISION: str(revision)}},
            "spec": {"containers": [{"resources": {"requests": requests}}], **({"nodeName": node} if node else {})},
            "status": {"conditions": []},
            "revision": revision,
        }


_CPU = Hardware("cpu", 0, None, ())


def _node(name: str, gpus: int) -> dict[str, Any]:
    """GPUs, and as many CPUs: a service without GPUs takes a CPU for each replica."""
    allocatable = {GPU: str(gpus), "cpu": str(max(1, gpus)), "pods": "110"}
    return {"metadata": {"name": name, "labels": {}}, "spec": {}, "status": {"allocatable": allocatable}}


def _requests(pod: dict[str, Any]) -> dict[str, str]:
    requests: dict[str, str] = pod["spec"]["containers"][0]["resources"]["requests"]
    return requests


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" for each in pod["status"]["conditions"])
