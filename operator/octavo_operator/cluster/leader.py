"""Leader election by a Lease: its holder renews it, the others take it when it has expired.

As client-go does it, times are measured by the own clock since the Lease was last seen to change, so clocks need not
agree. Every write carries the resourceVersion that was read: of two that reach for it, one fails.

The Lease has a thread and an event loop of its own: reconciles that compute for seconds delay no renewal.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from octavo_operator.api.resources import LEASES
from octavo_operator.cluster.client import LEASE_CALL_S, Cluster, Object
from octavo_operator.cluster.connection import Connection
from octavo_operator.errors import ApiError, OperatorError

LEASE_S = 15
RENEW_S = 10.0  # not renewed for as long, it counts as lost
MARGIN_S = 1.0  # between our last write's end and another's first
RETRY_S = 2.0
NAME = "octavo-operator"

log = logging.getLogger(__name__)

T = TypeVar("T")


class Leader:
    """The Lease `octavo-operator` in a namespace, as this process sees it."""

    def __init__(self, cluster: Cluster, namespace: str, identity: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.identity = identity
        self.received = time.monotonic()  # when the API server last accepted a request
        self.unauthorized_since: float | None = None  # it answers 401, and nothing but
        self._renewed: float | None = None
        self._failing = False
        self._seen: tuple[str | None, float] = (None, self.received)  # resourceVersion, and when it was first seen
        self._lasts = float(LEASE_S)  # seconds from then on

    @property
    def leads(self) -> bool:
        """True if this process may write: the Lease was renewed lately. A process that was stopped sees it at once."""
        return self.fence() > 0

    def fence(self) -> float:
        """Seconds that a write which begins now may take, so that it ends before another can hold the Lease.

        4 s at the least, and 12 s or more as long as renewals succeed: admission webhooks may take ten.
        """
        if self._renewed is None or (age := time.monotonic() - self._renewed) >= RENEW_S:
            return 0.0
        return LEASE_S - MARGIN_S - age

    async def acquire(self) -> None:
        """Returns once the Lease is held."""
        while not await self._try():  # noqa: ASYNC110 — a Lease that expires causes no event
            await asyncio.sleep(self._pause())
        log.info("this replica leads", extra={"lease": f"{self._namespace}/{NAME}", "identity": self.identity})

    async def keep(self) -> None:
        """Renews; returns when another holds the Lease, and then the process must end at once.

        An API server that does not answer is waited for: nothing is written meanwhile (see `leads`), and the Lease
        is still ours afterwards unless another has taken it.
        """
        while True:
            await asyncio.sleep(RETRY_S)
            if await self._try(take=False) is False:
                self._renewed = None
                return

    async def release(self) -> None:
        """Let the next one have it at once; for an orderly end, after everything that writes has ended."""
        if not self.leads:
            return
        try:
            live = await self._cluster.get(LEASES, self._namespace, NAME)
            if live is not None and live["spec"].get("holderIdentity") == self.identity:
                live["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.replace(LEASES, live)
        except OperatorError as error:
            log.warning("the Lease could not be given back: %s", error)
        self._renewed = None

    async def _try(self, *, take: bool = True) -> bool | None:
        """True: held. False: another's. None: the API server did not answer, or another writer was first."""
        began = time.monotonic()
        try:
            live = await self._cluster.get(LEASES, self._namespace, NAME)
            self.received, self.unauthorized_since = time.monotonic(), None
            if live is None:
                await self._cluster.create(LEASES, self._lease())
            elif self._is_mine(live) or (take and self._ran_out(live)):
                await self._cluster.replace(LEASES, self._lease(live))
            else:
                return False
        except OperatorError as error:
            if isinstance(error, ApiError) and error.status == 401:
                self.unauthorized_since = self.unauthorized_since or time.monotonic()
            if not (isinstance(error, ApiError) and error.status == 409) and not self._failing:
                log.warning("the Lease could not be %s: %s", "renewed" if self._renewed else "taken", error)
                self._failing = True
            return None
        self._renewed, self._failing = began, False
        return True

    def _is_mine(self, live: Object) -> bool:
        return bool(live["spec"].get("holderIdentity") == self.identity)

    def _ran_out(self, live: Object) -> bool:
        version, spec, now = live["metadata"]["resourceVersion"], live["spec"], time.monotonic()
        if not spec.get("holderIdentity"):
            return True
        if self._seen[0] != version:
            self._seen = (version, now)
        self._lasts = float(spec.get("leaseDurationSeconds") or LEASE_S)
        return now - self._seen[1] > self._lasts

    def _pause(self) -> float:
        """Seconds until the next try for the Lease: when it has just expired, if that is sooner."""
        left = self._seen[1] + self._lasts - time.monotonic() + 0.05
        return left if 0 < left < RETRY_S else RETRY_S

    def _lease(self, live: Object | None = None) -> Object:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before = {} if live is None else live["spec"]
        changed = before.get("holderIdentity") != self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_S,
            "acquireTime": now if changed else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + int(changed and live is not None),
        }
        metadata = {"name": NAME, "namespace": self._namespace} if live is None else live["metadata"]
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


class LeaseThread:
    """Runs a `Leader` in parallel to the main event loop; `leader` may be read from any thread."""

    def __init__(self, connection: Connection, namespace: str, identity: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lease", daemon=True)
        self._thread.start()
        made = asyncio.run_coroutine_threadsafe(self._made(connection, namespace, identity), self._loop)
        self._cluster, self.leader = made.result()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine of the leader's, run in its own thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self) -> None:
        await self.run(self._cluster.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    @staticmethod
    async def _made(connection: Connection, namespace: str, identity: str) -> tuple[Cluster, Leader]:
        cluster = Cluster(connection, read_s=LEASE_CALL_S)
        return cluster, Leader(cluster, namespace, identity)
