"""Health and metrics of the operator over HTTP.

/healthz  the truth: 503 as soon as a watch is not to be relied on, with the state of each and the age of what was done
/readyz   200 once it waits for the Lease, or leads with all watches open
/livez    200 unless a restart would help: the event loop answers, workers finish what they begin, and the API server
          accepts our credentials; for the liveness probe. An operator that is merely behind is alive.
/metrics  for Prometheus
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from octavo_operator.api.names import NamespacedName
from octavo_operator.cluster.leader import Leader
from octavo_operator.controller.watchers import Watchers, name
from octavo_operator.controller.work_queue import Seen, WorkQueue
from octavo_operator.reconcile.kinds_seen import KindsSeen
from octavo_operator.reconcile.metrics import Metrics

STUCK_S = 300.0
UNAUTHORIZED_S = 120.0
SILENCE_S = 30.0


@dataclass
class Health:
    """Collects the state of the watches, the Lease and the reconciles."""

    leader: Leader
    watchers: Watchers
    queue: WorkQueue
    metrics: Metrics
    kinds: KindsSeen = field(default_factory=KindsSeen)
    services: set[NamespacedName] = field(default_factory=set)
    generations: dict[NamespacedName, int] = field(default_factory=dict)
    """The newest generation that a watch or a list has shown of each service."""
    leading: bool = False
    last_success: float | None = None  # monotonic
    was_well: bool = False

    def take(self, seen: Seen) -> bool:
        """Make a service due that was seen; whether its generation is news."""
        key, generation, kind = seen
        if kind:
            self.kinds.note(key, {kind})
        new = generation is not None and self.generations.get(key, -1) < generation
        if new and generation is not None:
            self.generations[key] = generation
        self.queue.add(key, urgent=new)
        return new

    def forget(self, key: NamespacedName) -> None:
        """The service is gone."""
        self.services.discard(key)
        self.generations.pop(key, None)
        self.metrics.forget(key)

    def report(self) -> tuple[bool, dict[str, Any]]:
        """True if all is well, and the state in detail."""
        now = time.monotonic()
        troubles: dict[str, str] = {}
        if self.leading:
            troubles |= self.watchers.troubles()
            if not self.leader.leads:
                troubles["lease"] = "not renewed lately: nothing is written"
            if (late := self.queue.overdue()) > STUCK_S:
                troubles["reconciles"] = f"a service has been due for {late:.0f} s"
        elif now - self.leader.received > SILENCE_S:
            troubles["lease"] = f"the API server has not answered for {now - self.leader.received:.0f} s"
        body = {
            "role": "leader" if self.leading else "standby",
            "troubles": troubles,
            "watchers": {
                name(watch): {
                    "ok": watch.trouble(now) is None,
                    "heardSecondsAgo": None if watch.received is None else round(now - watch.received, 1),
                    **({"why": watch.why} if watch.why else {}),
                }
                for watch in self.watchers.watches.values()
            },
            "watcherRestarts": self.watchers.restarts,
            "services": len(self.services),
            "queueDepth": self.queue.depth,
            "lastSuccessfulReconcileSecondsAgo": None
            if self.last_success is None
            else round(now - self.last_success, 1),
        }
        return not troubles, body

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        well, body = self.report()
        return web.json_response(body, status=200 if well else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready once it was well: what ails it later is /healthz' and an alert's. The pod also serves the metrics API,
        which goes on answering while a watch or the Lease is in trouble; were it unready, nothing would be scaled."""
        well, body = self.report()
        self.was_well = self.was_well or well
        return web.json_response(body, status=200 if self.was_well else 503)

    async def _livez(self, _: web.Request) -> web.Response:
        found = {"stuckSeconds": round(self.queue.stuck(), 1), "unauthorizedSeconds": 0.0}
        if (since := self.leader.unauthorized_since) is not None:
            found["unauthorizedSeconds"] = round(time.monotonic() - since, 1)
        well = found["stuckSeconds"] < STUCK_S and found["unauthorizedSeconds"] < UNAUTHORIZED_S
        return web.json_response(found, status=200 if well else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        now, metrics = time.monotonic(), self.metrics
        metrics.depth.set(self.queue.depth)
        metrics.services.set(len(self.services))
        metrics.leading.set(self.leading)
        for watch in self.watchers.watches.values():
            metrics.watcher_up.labels(name(watch)).set(watch.trouble(now) is None)
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": "text/plain; version=0.0.4"}
        )
