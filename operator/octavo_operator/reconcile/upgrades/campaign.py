"""All services: who may move to this release, and whether anyone may. Pure.

Three services in a row that do not serve it stop the campaign: the release, or what it needs, is at fault rather than
one of them. It goes on with the next release, or once a service that a person has asked for serves this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo_operator.api.names import NamespacedName
from octavo_operator.reconcile.upgrades.rendering import Attempt

ROW = 3
"""Failures in a row that stop a campaign."""


@dataclass(frozen=True, slots=True)
class Member:
    """A service, as the campaign sees it."""

    moving: bool = False
    """True while it moves, or goes back, and does not serve yet."""
    attempt: Attempt | None = None
    waits: bool = False
    """True if it may move as soon as its turn comes."""
    asked_for: bool = False
    """True if a person has requested it, for this service."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A release, and how many services may move to it at a time."""

    release: str
    limit: int

    def stopped(self, members: Mapping[NamespacedName, Member]) -> tuple[NamespacedName, ...]:
        """The services that stopped it, in the order in which they failed; none where it goes on."""
        tried = {key: each.attempt for key, each in members.items() if each.attempt is not None}
        ended = sorted((each.at, key) for key, each in tried.items() if each.release == self.release)
        last = tuple(key for _, key in ended[-ROW:])
        return last if len(last) == ROW and not any(tried[key].served for key in last) else ()

    def may_move(self, key: NamespacedName, member: Member, members: Mapping[NamespacedName, Member]) -> bool:
        """True if the service has its turn now."""
        others = sum(each.moving for name, each in members.items() if name != key)
        return others < self.limit and (member.asked_for or not self.stopped(members))

    def next(self, members: Mapping[NamespacedName, Member]) -> tuple[NamespacedName, ...]:
        """The waiting services that have their turn now: first those that a person has approved, then by name."""
        free = self.limit - sum(member.moving for member in members.values())
        if free <= 0:
            return ()
        goes_on = not self.stopped(members)
        waiting = sorted(
            (not member.asked_for, key)
            for key, member in members.items()
            if member.waits and (member.asked_for or goes_on)
        )
        return tuple(key for _, key in waiting[:free])
