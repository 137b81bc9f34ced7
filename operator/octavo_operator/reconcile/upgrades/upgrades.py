"""The campaign of this process: read from the Deployments once, and then kept current by each pass.

Nothing here is the truth: a process that starts reads all of it again before it lets any service move.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from octavo_operator.api.labels import OF_CHILDREN, SERVICE
from octavo_operator.api.names import NamespacedName
from octavo_operator.api.observed import Object
from octavo_operator.api.resources import DEPLOYMENTS
from octavo_operator.cluster.client import Cluster
from octavo_operator.reconcile.metrics import Metrics
from octavo_operator.reconcile.upgrades.campaign import Campaign, Member
from octavo_operator.reconcile.upgrades.rendering import Record, recorded
from octavo_operator.reconcile.upgrades.replicas import replicas_of
from octavo_operator.reconcile.upgrades.step import Step, UpgradeState, is_moving, moved, step

log = logging.getLogger(__name__)


class Upgrades:
    """Belongs to one event loop. `wake` makes a service due, for its turn has come."""

    def __init__(
        self,
        cluster: Cluster,
        campaign: Campaign,
        metrics: Metrics,
        wake: Callable[[NamespacedName], None],
        namespaces: Sequence[str] = (),
    ) -> None:
        self._cluster = cluster
        self._campaign = campaign
        self._metrics = metrics
        self._wake = wake
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._members: dict[NamespacedName, Member] = {}
        self._reading = asyncio.Lock()
        self._was_read = False
        self.stopped: tuple[NamespacedName, ...] = ()
        """The services that stopped the campaign; none while it goes on."""

    @property
    def limit(self) -> int:
        return self._campaign.limit

    def next_step(self, key: NamespacedName, case: UpgradeState) -> Step:
        """Decides for one service, and keeps its place in the campaign; only once `read` has returned."""
        taken = step(case)
        member = Member(
            is_moving(taken.record, case.replicas, case.fresh.release), taken.record.attempt, asked_for=taken.asked_for
        )
        if taken.phase == "Waiting":
            if self._campaign.may_move(key, member, self._members):
                taken = moved(case)
                member = Member(moving=True, attempt=member.attempt)
                log.info("moves to release %s", case.fresh.release, extra=key.logged)
            else:
                member = Member(attempt=member.attempt, waits=True, asked_for=taken.asked_for)
        elif taken.phase == "PutBack":
            why = taken.record.attempt.why if taken.record.attempt else ""
            log.warning("did not serve release %s and is put back: %s", case.fresh.release, why, extra=key.logged)
        self._keep(key, member)
        return taken

    def leave(self, key: NamespacedName, live: Object | None = None) -> None:
        """The service is gone, or nothing can be done for it at present.

        How it fared goes on to count: a stopped campaign does not go on because a failed service was deleted. Nor is its
        turn over while its replicas (of the Deployment `live`) are still being replaced.
        """
        former = self._members.pop(key, None)
        record = None if live is None else recorded(live)
        moving = live is not None and record is not None and _still_moves(record, live, self._campaign.release)
        attempt = former.attempt if former is not None else None
        if moving or attempt is not None:
            self._members[key] = Member(moving, attempt)
        if self._members.get(key) != former:
            self._look()

    def _keep(self, key: NamespacedName, member: Member) -> None:
        if self._members.get(key) != member:
            self._members[key] = member
            self._look()

    def _look(self) -> None:
        """Wake those whose turn has come, and all that wait where the campaign stops or goes on."""
        stopped = self._campaign.stopped(self._members)
        due = set(self._campaign.next(self._members))
        if bool(stopped) != bool(self.stopped):
            due |= {key for key, member in self._members.items() if member.waits}
            if stopped:
                names = ", ".join("/".join(key) for key in stopped)
                log.error("upgrades to release %s stop: %s did not serve it", self._campaign.release, names)
        self.stopped = stopped
        self._metrics.upgrades.labels("waiting").set(sum(member.waits for member in self._members.values()))
        self._metrics.upgrades.labels("moving").set(sum(member.moving for member in self._members.values()))
        self._metrics.upgrades_stopped.set(bool(stopped))
        for key in due:
            self._wake(key)

    async def read(self) -> None:
        """Returns once it is known which services move; at once from the second time on.

        Raises:
            ApiError, UnreachableError: the Deployments could not be listed.
        """
        async with self._reading:
            if self._was_read:
                return
            for namespace in self._namespaces:
                async for items, _ in self._cluster.pages(DEPLOYMENTS, namespace, selector=OF_CHILDREN):
                    for item in items:
                        metadata, record = item["metadata"], recorded(item)
                        key = NamespacedName(metadata["namespace"], metadata["labels"][SERVICE])
                        if record is not None:
                            moving = is_moving(record, replicas_of(item), self._campaign.release)
                            self._members.setdefault(key, Member(moving, record.attempt))
            self._was_read = True
        self._look()


def _still_moves(record: Record, live: Object, release: str) -> bool:
    replicas = replicas_of(live)
    served = record.move is not None and replicas.serve(record.move.ready)
    return is_moving(record, replicas, release) and not served and not replicas.stuck
