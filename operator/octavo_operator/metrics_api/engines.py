"""The engines of all services: the operator's pods that answer, followed at the API server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from octavo_operator.api.conditions import is_true
from octavo_operator.api.labels import COMPONENT, ENGINE, SERVICE
from octavo_operator.api.resources import PODS
from octavo_operator.children.pod import CONTAINER, PORT_NAME
from octavo_operator.cluster.client import Cluster, Name, Object
from octavo_operator.cluster.mirror import Change, Mirror
from octavo_operator.runtimes.runtime import METRICS_PATH

SELECTOR = f"{SERVICE},{COMPONENT}={ENGINE}"
DEFAULT_PORT = 8000


@dataclass(frozen=True, slots=True)
class EnginePod:
    """A pod that answers."""

    namespace: str
    name: str
    uid: str
    url: str  # of its /metrics
    labels: Mapping[str, str] = field(hash=False)
    host: str | None = None  # what its own host is called; None where the pod chooses otherwise

    @property
    def key(self) -> tuple[str, str]:
        """A pod that keeps its name may be another one, and one that is the same may have got another address."""
        return self.uid, self.url

    @property
    def service(self) -> str:
        return self.labels.get(SERVICE, "")


def engine_of(pod: Object) -> EnginePod | None:
    """The engine of a pod; None where it still loads, or ends: its metrics are then no load."""
    metadata, status = pod["metadata"], pod.get("status", {})
    address = status.get("podIP")
    if "deletionTimestamp" in metadata or status.get("phase") != "Running" or not address:
        return None
    if not is_true(pod, "Ready"):
        return None
    host = f"[{address}]" if ":" in address else address
    url = f"{_scheme(pod)}://{host}:{_port(pod)}{METRICS_PATH}"
    return EnginePod(
        metadata["namespace"], metadata["name"], metadata["uid"], url, metadata.get("labels", {}), _host(pod)
    )


def _host(pod: Object) -> str | None:
    """The pod's host name, as the kubelet sets it."""
    spec = pod["spec"]
    if spec.get("hostNetwork") or spec.get("hostname") or spec.get("hostnameOverride"):
        return None
    name: str = pod["metadata"]["name"]
    return name[:63].rstrip("-.")


def _port(pod: Object) -> int:
    named = {port.get("name"): int(port["containerPort"]) for port in _container(pod).get("ports", ())}
    return named.get(PORT_NAME, next(iter(named.values()), DEFAULT_PORT))


def _scheme(pod: Object) -> str:
    """The scheme of its readiness probe: where that succeeds, this one is right."""
    probe = _container(pod).get("readinessProbe", {}).get("httpGet", {})
    return "https" if probe.get("scheme") == "HTTPS" else "http"


def _container(pod: Object) -> Object:
    """The engine's own; a pod template may have further ones."""
    return next((each for each in pod["spec"].get("containers", ()) if each["name"] == CONTAINER), {})


class Engines:
    """The engines of the cluster, for as long as `run` runs. `changed` is called with them after each change."""

    def __init__(self, cluster: Cluster, changed: Callable[[Mapping[Name, EnginePod]], None]) -> None:
        self._changed = changed
        self._pods = Mirror(cluster, PODS, engine_of, self._pods_changed, selector=SELECTOR)

    @property
    def known(self) -> Mapping[Name, EnginePod]:
        return self._pods.known

    def are_known(self, now: float) -> bool:
        """False after a long silence of the API server: an address may be another pod's by now."""
        return self._pods.is_current(now)

    async def run(self) -> None:
        await self._pods.run()

    def _pods_changed(self, _: Sequence[Change[EnginePod]]) -> None:
        self._changed(self._pods.known)
