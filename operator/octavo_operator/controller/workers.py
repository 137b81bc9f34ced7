"""Takes keys from the queue and reconciles them: several in parallel, each by itself, with back-off after a failure."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from functools import partial

from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import MONITORS, SERVICES
from octavo_operator.controller.health import Health
from octavo_operator.controller.work_queue import Seen, WorkQueue
from octavo_operator.errors import ApiError, NotLeadingError, NotListedYetError, UnreachableError
from octavo_operator.reconcile.reconciler import Reconciler
from octavo_operator.repeating import repeat

WORKERS = 8
DEADLINE_S = 120.0
RESYNC_S = 600.0
LISTING_S = 30.0  # services alone, by their metadata: what a watch has lost shows then
GRACE_S = 5.0  # for a watch to report what a list has shown
UNHEALTHY_S = 15.0  # the longest pause where the API server is what fails
WAITING_S = 60.0  # and where it refuses something that a person has to grant
MONITORS_S = 10.0
SPREAD = 0.2  # so that many services do not come due at once

log = logging.getLogger(__name__)


class Workers:
    """The reconcile workers, while this replica leads."""

    def __init__(
        self, reconciler: Reconciler, queue: WorkQueue, health: Health, namespaces: Sequence[str] = ()
    ) -> None:
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._reconciler = reconciler
        self._queue = queue
        self._health = health
        self._early: set[NamespacedName] = set()  # services whose pass came before nodes and pods were listed

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())
            group.create_task(self._resume())
            for look, seconds, what in (
                (self._resync, RESYNC_S, "the services could not be made due again"),
                (self._find_missing, LISTING_S, "the services could not be listed to find lost events"),
                (self._look_for_monitors, MONITORS_S, "whether ServiceMonitors are known could not be asked"),
            ):
                group.create_task(repeat(look, partial(_about, seconds), what, begin_after=_about(seconds)))

    async def _work(self) -> None:
        while True:
            await self._one(await self._queue.get())

    async def _one(self, key: NamespacedName) -> None:
        metrics, began, named = self._health.metrics, time.monotonic(), key.logged
        result = "failed"
        try:
            async with asyncio.timeout(DEADLINE_S):
                result = await self._reconciler.reconcile(key)
        except NotListedYetError:
            self._early.add(key)
            self._health.services.add(key)
            self._queue.done(key)
            return
        except (UnreachableError, NotLeadingError, TimeoutError) as error:
            log.warning("not reconciled: %s", error, extra=named)
        except ApiError as error:
            metrics.api_errors.labels(str(error.status)).inc()
            level = logging.INFO if error.status == 409 else logging.WARNING  # 409: another writer was first
            log.log(level, "not reconciled: %s", error, extra=named)
        except asyncio.CancelledError:
            raise
        except Exception:
            # A defect of ours on one object must not delay another; the traceback is for its report.
            log.exception("the reconcile failed by a mistake of the operator's", extra=named)
        metrics.duration.observe(time.monotonic() - began)
        if result == "gone":
            self._health.forget(key)
            self._queue.done(key)
            return
        metrics.reconciles.labels(result).inc()
        self._health.services.add(key)
        if result != "failed":
            self._health.last_success = time.monotonic()
            metrics.last_success.set_to_current_time()
        if result in {"failed", "waiting"}:
            delay = self._queue.failed(key, UNHEALTHY_S if result == "failed" else WAITING_S)
            log.debug("looked at again in %g s", delay, extra=named)
        else:
            self._queue.done(key)
            if result == "changed":
                log.info("reconciled", extra={**named, "seconds": round(time.monotonic() - began, 3)})

    async def _resume(self) -> None:
        """Make due what came too early, without a worker that waits while ten thousand pods are listed."""
        if self._reconciler.feed is not None:
            await self._reconciler.feed.tried()
        for key in self._early:
            self._queue.add(key)
        self._early.clear()

    async def _resync(self) -> None:
        """Make every known service due: events of children that were lost, and what is not watched, show then."""
        self._reconciler.doubt()
        for key in sorted(self._health.services):
            self._queue.add(key, random.uniform(0, RESYNC_S * SPREAD))

    async def _find_missing(self) -> None:
        """List the services: one that no watch has reported, or not in its present state, is due, and the watches restart."""
        listed = await self._listed()
        known = self._health.generations
        for key in self._health.services - listed.keys():
            self._queue.add(key)  # a deletion that was lost
        if not any(known.get(key, -1) < generation for key, generation in listed.items()):
            return
        await asyncio.sleep(GRACE_S)
        lost = [Seen(key, generation) for key, generation in listed.items() if known.get(key, -1) < generation]
        for seen in lost:
            self._health.take(seen)
        if lost and not self._health.watchers.troubles():  # those that are in trouble start again by themselves
            self._health.watchers.renew(f"they lost the events of {len(lost)} services")

    async def _listed(self) -> dict[NamespacedName, int]:
        """Generations of all services."""
        found: dict[NamespacedName, int] = {}
        for namespace in self._namespaces:
            async for items, _ in self._reconciler.cluster.pages(SERVICES, namespace, metadata_alone=True):
                for item in items:
                    metadata = item["metadata"]
                    found[NamespacedName(metadata["namespace"], metadata["name"])] = int(metadata.get("generation", 0))
        return found

    async def _look_for_monitors(self) -> None:
        """ServiceMonitors are watched from when their kind is known until it is not; each service is due then.

        By discovery, which every client may read, rather than by a right to all CustomResourceDefinitions.
        """
        self._health.watchers.expect(monitors=await self._reconciler.cluster.serves(MONITORS))


def _about(seconds: float) -> float:
    return seconds * random.uniform(1 - SPREAD, 1 + SPREAD)
