"""Announces custom.metrics.k8s.io to the API server for as long as it is served, by the leader.

An announced API without a server hurts the whole cluster: deleting any namespace waits for it. So the APIServices
are made when a replica is ready to serve, and removed when none has been for a while; the last process to end removes
them too (`metrics_api/deregistration.py`), and they are owned by a ClusterRole of the installation, whose removal in any way
takes them along. Another adapter's are left alone.

Endpoints that are ready do not mean that the API server reaches them: a firewall, a NetworkPolicy or a mesh may be in
between. So its own word, the condition `Available`, is read afterwards; what it can't reach is withdrawn within a
minute, and announced again after a pause that doubles.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octavo_operator.api.conditions import condition_of, is_true
from octavo_operator.api.labels import MANAGED_BY
from octavo_operator.api.metrics_source import (
    DISABLED,
    NAMESPACED,
    SERVED,
    UNKNOWN,
    UNSERVED,
    MetricsSource,
    foreign,
    unreachable,
)
from octavo_operator.api.resources import API_SERVICES, CLUSTER_ROLES, ENDPOINT_SLICES, SECRETS
from octavo_operator.cluster.client import Cluster, Object
from octavo_operator.cluster.drift import differs
from octavo_operator.errors import ApiError
from octavo_operator.metrics_api.serving_certificate import ServingCertificate, current, from_data
from octavo_operator.repeating import repeat

GROUP = "custom.metrics.k8s.io"
PRIORITIES = {"v1beta2": 200, "v1beta1": 100}
NAMES = tuple(f"{version}.{GROUP}" for version in PRIORITIES)
SERVICE, SECRET, OWNER = "octavo-metrics-api", "octavo-metrics-api-tls", "octavo-operator-metrics-api"
PERIOD_S = 10.0
STARTING_S = 2.0
UNSERVED_S = 30.0  # a container that is started again has come back by then
UNREACHED_S = 15.0
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 1800.0

log = logging.getLogger(__name__)


def is_ours(api_service: Object, namespace: str) -> bool:
    """True if it leads to the operator's Service in its namespace, by any author; or to that of an installation of
    Octavo in another namespace that is gone, and left it behind."""
    service = api_service["spec"].get("service") or {}
    if service.get("name") != SERVICE:
        return False
    made = api_service["metadata"].get("labels", {}).get(MANAGED_BY) == "octavo"
    left_behind = made and unavailable(api_service).startswith("ServiceNotFound")
    return left_behind or service.get("namespace") == namespace


@dataclass(frozen=True, slots=True)
class Serving:
    """The Service's endpoints."""

    pods: tuple[str, ...]
    """Names of the pods that serve; empty names where none is given."""
    port: int | None
    """The containers' port, which the API server has to reach."""


async def serving(cluster: Cluster, namespace: str) -> Serving:
    """Raises ApiError or UnreachableError."""
    slices = await cluster.list(ENDPOINT_SLICES, namespace, f"kubernetes.io/service-name={SERVICE}")
    endpoints = (endpoint for each in slices for endpoint in each.get("endpoints") or ())
    pods = tuple(
        (endpoint.get("targetRef") or {}).get("name", "")
        for endpoint in endpoints
        if endpoint.get("conditions", {}).get("ready") is not False
    )
    ports = [port["port"] for each in slices for port in each.get("ports") or () if port.get("port")]
    return Serving(pods, ports[0] if ports else None)


def is_available(api_service: Object) -> bool:
    """True if the API server reports that it reaches it."""
    return is_true(api_service, "Available")


def unavailable(api_service: Object) -> str:
    """The API server's own words on why it does not reach it; empty where it does, or has not looked yet."""
    available = condition_of(api_service, "Available")
    if available.get("status") != "False":
        return ""
    return f"{available.get('reason', 'unknown')}: {available.get('message', '')}"


async def withdraw(cluster: Cluster, namespace: str) -> bool:
    """Remove what is ours; whether there was any. Raises ApiError or UnreachableError."""
    found = False
    for name in NAMES:
        for attempt in range(5):
            live = await cluster.get(API_SERVICES, None, name)
            if live is None or not is_ours(live, namespace) or "deletionTimestamp" in live["metadata"]:
                break
            found = True
            try:
                await cluster.delete(API_SERVICES, live)
            except ApiError as error:
                if error.status != 409 or attempt == 4:  # 409: its status changed meanwhile
                    raise
            else:
                log.info("no longer announced: APIService %s", name)
                break
    return found


class Announcement:
    """Keeps the APIServices while this replica leads. `source` is reported in conditions; `changed` is called with it.

    A source that is NAMESPACED or DISABLED from the start stays so. With `authorities`, a file, the certificate is
    another's care, and its Secret is not touched.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        source: MetricsSource,
        changed: Callable[[], None],
        authorities: Path | None = None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._changed = changed
        self._authorities = authorities
        self._served = 0.0
        self._unreached: float | None = None  # monotonic: since when the API server reports so
        self._withdrawn = False  # once and for all
        self._pause_s = FIRST_PAUSE_S
        self._again = 0.0  # monotonic: when it is announced once more
        self.source = source

    async def run(self) -> None:
        self._served = time.monotonic()  # who has just come to lead gives the others their time
        if self.source is NAMESPACED:
            return
        what = "the metrics API's announcement can't be looked after"
        await repeat(self._look, lambda: STARTING_S if self.source is UNKNOWN else PERIOD_S, what)

    async def _look(self) -> None:
        if self.source is not DISABLED:
            self._take(await self.keep())
        elif not self._withdrawn:
            try:
                await withdraw(self._cluster, self._namespace)
            except ApiError as error:
                if error.status != 403:  # installed without its rights: what was announced by them went with them
                    raise
            self._withdrawn = True

    def _take(self, source: MetricsSource) -> None:
        if source != self.source:
            log.info("custom.metrics.k8s.io: %s", source.remedy or "announced")
            self.source = source
            self._changed()

    async def keep(self) -> MetricsSource:
        """Compare once, and write only what differs. Raises OperatorError, or OSError where the file can't be read."""
        found = [await self._cluster.get(API_SERVICES, None, name) for name in NAMES]
        held_back = await self._held_back([each for each in found if each is not None])
        if held_back is not None:
            self._take(held_back)  # at once, for what follows may fail
        bundle = await self._bundle()  # in any case: without the certificate nothing is served
        if held_back is not None:
            return held_back
        owner = await self._owner()
        for (version, priority), live in zip(PRIORITIES.items(), found, strict=True):
            desired = self._api_service(version, priority, bundle, owner)
            if live is None or differs(desired, live):
                # What another writer makes of it in this very moment stays: then this fails.
                if live is not None:
                    desired["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
                await self._cluster.apply(API_SERVICES, desired, force=live is not None)
                log.info("announced: APIService %s.%s", version, GROUP)
        # Until the API server has reached it once, the last report stands.
        return SERVED if all(each is not None and is_available(each) for each in found) else self.source

    async def _held_back(self, found: list[Object]) -> MetricsSource | None:
        """The state to report instead of announcing, with an earlier announcement withdrawn; None to announce."""
        others = [each for each in found if not is_ours(each, self._namespace)]
        if others:
            await withdraw(self._cluster, self._namespace)
            return foreign(others[0])
        now = time.monotonic()
        endpoints = await serving(self._cluster, self._namespace)
        if not endpoints.pods:
            if now - self._served > UNSERVED_S:
                await withdraw(self._cluster, self._namespace)
            return UNSERVED if now - self._served > UNSERVED_S else self.source
        self._served = now
        if now < self._again:
            return self.source
        if trouble := self._trouble(found, now):
            await withdraw(self._cluster, self._namespace)
            self._unreached, self._again = None, now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return unreachable(trouble, endpoints.port)
        return None

    def _trouble(self, found: list[Object], now: float) -> str:
        """The reason why the API server has not reached an announced API for too long; empty where it has."""
        why = next((words for each in found if (words := unavailable(each))), "")
        if not why:
            if found and all(is_available(each) for each in found):
                self._pause_s = FIRST_PAUSE_S
            self._unreached = None
            return ""
        if self._unreached is None:
            self._unreached = now
        return why if now - self._unreached > UNREACHED_S else ""

    async def _bundle(self) -> bytes:
        """The CA that the API server has to trust. Keeps the certificate meanwhile."""
        if self._authorities is not None:
            return await asyncio.to_thread(self._authorities.read_bytes)
        live = await self._cluster.get(SECRETS, self._namespace, SECRET)
        held = None
        if live is not None:
            held = from_data({key: base64.b64decode(value) for key, value in (live.get("data") or {}).items()})
        hosts = (f"{SERVICE}.{self._namespace}.svc", f"{SERVICE}.{self._namespace}.svc.cluster.local", SERVICE)
        desired = current(held, hosts, dt.datetime.now(dt.UTC))
        if desired != held:
            await self._cluster.apply(SECRETS, self._secret(desired))
            log.info("the metrics API has a new serving certificate")
        return desired.authorities

    def _secret(self, certificate: ServingCertificate) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": self._namespace, "labels": {MANAGED_BY: "octavo"}},
            "type": "kubernetes.io/tls",
            "data": {key: base64.b64encode(value).decode() for key, value in certificate.data().items()},
        }

    async def _owner(self) -> list[Object]:
        """Nothing owns it where the ClusterRole has another name, as when a person runs the operator."""
        role = await self._cluster.get(CLUSTER_ROLES, None, OWNER)
        if role is None:
            return []
        kind = {"apiVersion": CLUSTER_ROLES.api_version, "kind": CLUSTER_ROLES.kind}
        return [{**kind, "name": OWNER, "uid": role["metadata"]["uid"]}]

    def _api_service(self, version: str, priority: int, bundle: bytes, owner: list[Object]) -> Object:
        metadata: Object = {"name": f"{version}.{GROUP}", "labels": {MANAGED_BY: "octavo"}}
        if owner:
            metadata["ownerReferences"] = owner
        return {
            "apiVersion": API_SERVICES.api_version,
            "kind": API_SERVICES.kind,
            "metadata": metadata,
            "spec": {
                "group": GROUP,
                "version": version,
                "service": {"namespace": self._namespace, "name": SERVICE, "port": 443},
                "caBundle": base64.b64encode(bundle).decode(),
                "groupPriorityMinimum": 100,
                "versionPriority": priority,
            },
        }
