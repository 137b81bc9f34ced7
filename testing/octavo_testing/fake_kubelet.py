"""Nodes with pretended GPUs, and the part of a kubelet that the API server sees.

The real scheduler binds pods to these nodes and the real controllers count them; what a kubelet would do to a pod is
done here by patching its status. By itself it only lets bound pods end when they are deleted and gives volume claims a
volume; `run_pods = True` makes it run every bound pod too: Ready, or Succeeded where a Job owns it.
"""

from __future__ import annotations

import datetime as dt
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from octavo_testing.api_client import MERGE, ApiClient, ApiError, Object, until
from octavo_testing.cluster import Cluster

RECONNECT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a container, as a pod's status reports it. `message` is its termination message."""

    exit_code: int = 1
    reason: str = "Error"
    message: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """The state of all containers of a pod: waiting for a reason, running, or ended."""

    ready: bool = False
    waiting: str = ""
    message: str = ""
    ended: Ended | None = None
    last: Ended | None = None
    restarts: int = 0
    init_done: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


class FakeKubelet:
    """Plays the kubelet of every node of a control plane; a context manager."""

    def __init__(self, control_plane: Cluster, labels: Mapping[str, str] | None = None) -> None:
        """`labels` are on all its nodes."""
        if not control_plane.own:
            control_plane.kubelet  # noqa: B018 - a person's cluster says here why it can't, and skips the test
        self._api = control_plane.api
        self._endpoint = control_plane.endpoint()
        self._labels = dict(labels or {})
        self._nodes: list[str] = []
        self._volumes: list[str] = []
        self._addresses = itertools.count(2)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.run_pods = False
        self.bind_claims = True
        self.drain_seconds = 0.0  # a deleted pod goes on that long, no longer Ready, up to its grace period
        self._draining: dict[str, float] = {}  # pod's uid: when it ends, by time.monotonic

    def __enter__(self) -> Self:
        for kind, handle in (("Pod", self._handle_pod), ("PersistentVolumeClaim", self._handle_claim)):
            thread = threading.Thread(
                target=self._follow, args=(kind, handle), name=f"fake-kubelet-{kind}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(10)
        for pod in self._api.list("v1", "Pod"):
            if pod["spec"].get("nodeName") in self._nodes:
                self._api.delete("v1", "Pod", name_of(pod), pod["metadata"]["namespace"], gracePeriodSeconds=0)
        for name in self._nodes:
            self._api.delete("v1", "Node", name)
        for name in self._volumes:
            self._api.delete("v1", "PersistentVolume", name)

    # Nodes

    def add_node(
        self,
        name: str,
        gpus: int = 0,
        product: str = "",
        memory: int = 0,
        *,
        resource: str = "nvidia.com/gpu",
        cpu: str = "64",
        ram: str = "512Gi",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """A Ready node with so many pretended GPUs of a `product`, each of `memory` MiB, labelled as NVIDIA's GPU
        feature discovery does. It returns when the scheduler may use the node."""
        described = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory or "")}
        described |= {"nvidia.com/gpu.count": str(gpus or ""), "kubernetes.io/hostname": name}
        described |= {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **self._labels, **(labels or {})}
        self._api.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {key: value for key, value in described.items() if value}},
                "spec": {"taints": [dict(taint) for taint in taints]},
            }
        )
        self._nodes.append(name)
        amounts = {"cpu": cpu, "memory": ram, "ephemeral-storage": "1Ti", "pods": "110"}
        if gpus:
            amounts[resource] = str(gpus)
        self.set_node_ready(name, capacity=amounts, allocatable=amounts)
        until(lambda: not self._is_tainted(name), 20, f"node {name} is Ready without a taint")

    def set_node_ready(self, name: str, ready: bool = True, **status: Any) -> None:
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "KubeletReady" if ready else "KubeletNotReady",
            "message": "",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": now(),
        }
        body = {"status": {"conditions": [condition], **status}}
        self._api.patch("v1", "Node", name, "", body, subresource="status")

    def remove_node(self, name: str) -> None:
        self._api.delete("v1", "Node", name)
        self._nodes.remove(name)

    def _is_tainted(self, name: str) -> bool:
        taints = self._api.get("v1", "Node", name)["spec"].get("taints", [])
        return any(taint["key"] == "node.kubernetes.io/not-ready" for taint in taints)

    # Pods

    def pods(self, namespace: str, selector: str = "", count: int = 1) -> list[Object]:
        """The pods that are not being deleted, once there are at least so many."""

        def alive() -> list[Object]:
            found = self._api.list("v1", "Pod", namespace, selector)
            kept = [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and not has_ended(pod)]
            return kept if len(kept) >= count else []

        return until(alive, 20, f"{count} pods {selector or 'of any kind'} in {namespace}")

    def mark_pods_ready(self, namespace: str, selector: str = "", count: int = 1, restarts: int = 0) -> list[str]:
        """Running and Ready, whether a node was found for them or not. Gives the pods' names."""
        return self.mark_pods(namespace, selector, State(ready=True, restarts=restarts), count)

    def mark_pods_loading(self, namespace: str, selector: str = "", count: int = 1) -> list[str]:
        """Running, not Ready: what an engine is while its model loads."""
        return self.mark_pods(namespace, selector, State(), count)

    def mark_pods_waiting(self, namespace: str, selector: str, reason: str, message: str = "") -> list[str]:
        """Mark pods as not running, as with `ImagePullBackOff` or `CreateContainerConfigError`."""
        return self.mark_pods(namespace, selector, State(waiting=reason, message=message))

    def crash_pods(self, namespace: str, selector: str, ended: Ended, restarts: int = 3) -> list[str]:
        """Put pods into CrashLoopBackOff after they ended so; `Ended(137, "OOMKilled")` is the kernel's way."""
        words = {"waiting": "CrashLoopBackOff", "message": "back-off restarting failed container"}
        return self.mark_pods(namespace, selector, State(**words, last=ended, restarts=restarts))

    def finish_pods(self, namespace: str, selector: str, exit_code: int = 0, message: str = "") -> list[str]:
        """End pods for good, as a Job's pods end."""
        reason = "Error" if exit_code else "Completed"
        return self.mark_pods(namespace, selector, State(ended=Ended(exit_code, reason, message)))

    def mark_pods(self, namespace: str, selector: str, state: State, count: int = 1) -> list[str]:
        pods = self.pods(namespace, selector, count)
        return [name_of(pod) for pod in pods if self.set_pod(pod, state)]

    def set_pod(self, pod: Object, state: State, api: ApiClient | None = None) -> bool:
        """Write a pod's status; False where it has gone meanwhile."""
        status = self._status(pod, state)
        path = pod["metadata"]["namespace"], {"status": status}
        try:
            (api or self._api).patch("v1", "Pod", name_of(pod), *path, subresource="status", content_type=MERGE)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _status(self, pod: Object, state: State) -> Object:
        spec, old, at = pod["spec"], pod.get("status", {}), now()
        phase = "Pending" if state.waiting and not state.restarts else "Running"
        if state.ended:
            phase = "Failed" if state.ended.exit_code else "Succeeded"
        before = {condition["type"]: condition for condition in old.get("conditions", [])}

        def condition(kind: str, true: bool, reason: str = "") -> Object:
            status = "True" if true else "False"
            same = before.get(kind, {}).get("status") == status
            since = before[kind].get("lastTransitionTime", at) if same else at
            return {
                "type": kind,
                "status": status,
                "lastTransitionTime": since,
                **({"reason": reason} if reason else {}),
            }

        unready = "" if state.ready else ("PodCompleted" if phase == "Succeeded" else "ContainersNotReady")
        conditions = [
            condition("PodReadyToStartContainers", true=True),
            condition("Initialized", state.init_done),
            condition("Ready", state.ready, unready),
            condition("ContainersReady", state.ready, unready),
        ]
        # The scheduler's word on where the pod goes is kept.
        conditions += [before["PodScheduled"]] if "PodScheduled" in before else []
        done = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": at, "finishedAt": at}}
        # On the loopback: a client that connects to a pod is refused at once, and nothing leaves this machine.
        address = old.get("podIP") or "127.200.{}.{}".format(*divmod(next(self._addresses), 250))
        return {
            "phase": phase,
            "conditions": conditions,
            "startTime": old.get("startTime", at),
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": "10.0.0.1",
            "observedGeneration": pod["metadata"].get("generation", 1),
            "initContainerStatuses": [
                {**_container(c), "ready": True, "state": done} for c in spec.get("initContainers", [])
            ],
            "containerStatuses": [
                _container(c, state, _started(old) or at, c["name"] in _past_startup(old)) for c in spec["containers"]
            ],
            **state.extra,
        }

    # What a kubelet and a volume provisioner do unasked

    def _follow(self, kind: str, handle: Callable[[ApiClient, Object], None]) -> None:
        api = ApiClient(self._endpoint)
        while not self._stopped.is_set():
            try:
                for thing in api.list("v1", kind):
                    handle(api, thing)
                with api.watching("v1", kind, timeout=1.0, timeoutSeconds=300) as events:
                    for event in events:
                        if event["type"] in {"ADDED", "MODIFIED"}:
                            handle(api, event["object"])
                        if self._stopped.is_set():
                            break
            except TimeoutError:
                continue  # nothing happened for a second: pods that drain are looked at again
            except (OSError, ApiError, http.client.HTTPException, json.JSONDecodeError):
                self._stopped.wait(RECONNECT_SECONDS)  # the API server is away: tests do that
        api.close()

    def _handle_pod(self, api: ApiClient, pod: Object) -> None:
        if not pod["spec"].get("nodeName"):
            return
        if "deletionTimestamp" in pod["metadata"]:
            if not self._is_drained(api, pod):
                return
            uid = {"preconditions": {"uid": pod["metadata"]["uid"]}}
            api.delete("v1", "Pod", name_of(pod), pod["metadata"]["namespace"], gracePeriodSeconds=0, **uid)
        elif self.run_pods and pod.get("status", {}).get("phase") == "Pending":
            owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", [])}
            self.set_pod(pod, State(ended=Ended(0, "Completed")) if "Job" in owners else State(ready=True), api)

    def _is_drained(self, api: ApiClient, pod: Object) -> bool:
        """True once a deleted pod's containers have ended; they are no longer Ready from when it is first seen."""
        uid, grace = pod["metadata"]["uid"], pod["metadata"].get("deletionGracePeriodSeconds", 0)
        if uid not in self._draining:
            self._draining[uid] = time.monotonic() + min(self.drain_seconds, grace)
            if self.drain_seconds:
                self.set_pod(pod, State(), api)
        return time.monotonic() >= self._draining[uid]

    def _handle_claim(self, api: ApiClient, claim: Object) -> None:
        if not self.bind_claims or claim.get("status", {}).get("phase") != "Pending" or claim["spec"].get("volumeName"):
            return
        name = f"volume-{claim['metadata']['uid']}"
        if name in self._volumes or "deletionTimestamp" in claim["metadata"]:
            return
        spec = claim["spec"]
        self._volumes.append(name)
        api.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                    "accessModes": spec["accessModes"],
                    "storageClassName": spec.get("storageClassName", ""),
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {
                        "namespace": claim["metadata"]["namespace"],
                        "name": name_of(claim),
                        "uid": claim["metadata"]["uid"],
                    },
                    "hostPath": {"path": "/nowhere"},
                },
            }
        )


def _container(container: Object, state: State = State(), at: str = "", past_startup: bool = False) -> Object:
    """The status of a container. One with a startup probe has `started` from when that first succeeded."""
    if state.waiting:
        now_doing: Object = {"waiting": {"reason": state.waiting, "message": state.message}}
    elif state.ended:
        now_doing = _terminated(state.ended, at)
    else:
        now_doing = {"running": {"startedAt": at}}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"pretended://{container['image']}",
        "ready": state.ready,
        "started": "running" in now_doing and (state.ready or past_startup or "startupProbe" not in container),
        "restartCount": state.restarts,
        "state": now_doing,
        "lastState": _terminated(state.last, at) if state.last else {},
    }


def _past_startup(status: Object) -> set[str]:
    """The names of containers whose startup probe has succeeded since they last began."""
    return {container["name"] for container in status.get("containerStatuses", ()) if container.get("started")}


def _started(status: Object) -> str:
    """The time since which its containers run; empty if they do not."""
    for container in status.get("containerStatuses", ()):
        if since := container.get("state", {}).get("running", {}).get("startedAt"):
            return str(since)
    return ""


def _terminated(ended: Ended, at: str) -> Object:
    ending = {"exitCode": ended.exit_code, "reason": ended.reason, "message": ended.message}
    return {"terminated": {**ending, "startedAt": at, "finishedAt": at}}


def has_ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def name_of(thing: Object) -> str:
    name: str = thing["metadata"]["name"]
    return name


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
