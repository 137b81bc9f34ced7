"""One service: whether its pod template follows this release of the operator, stays, or goes back. Pure.

An edit always goes through, with the image that is pinned: only what no person asked for waits for a turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from octavo_operator.reconcile.upgrades.rendering import Attempt, Move, Pin, Record, Rendering
from octavo_operator.reconcile.upgrades.replicas import Replicas

Phase = Literal[
    "Current",  # it has what this release renders
    "Edited",  # a person changed something
    "Taken",  # nothing serves, so nothing is lost
    "Moving",  # it has its turn; not served yet
    "Served",  # and now it does
    "PutBack",  # or it does not
    "Offered",  # to the person who decides: upgradePolicy Manual
    "PassedOver",  # it was put back earlier
    "Busy",  # not while another change is under way
    "Waiting",  # for its turn
]


@dataclass(frozen=True, slots=True)
class UpgradeState:
    """A service that has a Deployment."""

    record: Record
    fresh: Rendering
    """The rendering by this release, with its own default image."""
    replicas: Replicas
    now: str
    """RFC 3339, by the API server's clock."""
    manual: bool = False
    approval: str = ""
    """The service's annotation octavo.dev/upgrade."""
    served: bool = True
    """True if it has ever served; assumed where that is not recorded."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next step. `record` is what the Deployment is to have."""

    phase: Phase
    record: Record
    asked_for: bool = False
    """True if a person has requested it, for this service."""

    @property
    def renders(self) -> bool:
        """True if the template is rendered by this release, with the record's pin; otherwise it is kept verbatim."""
        return self.phase in {"Current", "Edited", "Taken"}


def step(case: UpgradeState) -> Step:
    """Decides for one service; the phase Waiting becomes `moved` when the campaign lets it."""
    record, fresh, replicas = case.record, case.fresh, case.replicas
    current, move = record.current, record.move
    if current.asked != fresh.asked:
        return _edited(case)
    if move is not None:
        attempt = Attempt(
            current.release, current.asked, case.approval, served=True, at=case.now, image=_name(current.pin)
        )
        if replicas.desired == 0:
            return Step("Current", Record(current, None, record.attempt))  # nothing shows whether it serves
        if replicas.serve(move.ready):
            return Step("Served", Record(current, None, attempt))
        if why := replicas.stuck or (replicas.refused if replicas.ready < move.ready else ""):
            return Step("PutBack", Record(move.previous, None, replace(attempt, served=False, why=why)))
        return Step("Moving", record)
    if fresh.template == current.template:
        return Step("Current", record)
    asked_for = _is_approved(case) or _was_tried_before_an_edit(case)
    if case.manual and not _is_approved(case):
        return Step("Offered", record)
    if passed_over(case):
        return Step("PassedOver", record)
    if not case.manual and nothing_to_lose(case):
        return Step("Taken", replace(record, current=fresh))
    if not replicas.serve(1):
        return Step("Busy", record)
    return Step("Waiting", record, asked_for)


def moved(case: UpgradeState) -> Step:
    """The service has its turn."""
    record = case.record
    move = Move(record.current, case.replicas.ready, case.now)
    return Step("Moving", Record(case.fresh, move, record.attempt))


def is_moving(record: Record, replicas: Replicas, release: str) -> bool:
    """True if the service has a turn: it moves, or goes back and does not serve again yet."""
    if record.move is not None:
        return True
    attempt = record.attempt
    went_back = attempt is not None and not attempt.served and attempt.release == release
    return went_back and not replicas.serve(1) and not replicas.stuck


def refused(case: UpgradeState, why: str) -> Step:
    """The API server did not take the template that its turn would have brought."""
    fresh = case.fresh
    attempt = Attempt(
        fresh.release, fresh.asked, case.approval, served=False, at=case.now, why=why, image=_name(fresh.pin)
    )
    return Step("PutBack", replace(case.record, attempt=attempt))


def passed_over(case: UpgradeState) -> bool:
    """True if a service did not serve this release, and no person has requested it again."""
    attempt = _tried(case)
    return attempt is not None and (attempt.asked, attempt.approval) == (case.fresh.asked, case.approval)


def nothing_to_lose(case: UpgradeState) -> bool:
    """No replica answers, and none is about to."""
    replicas = case.replicas
    if replicas.desired == 0:
        return True
    return replicas.ready == 0 and (bool(replicas.stuck) or not (case.served or replicas.loading))


def approval_for(case: UpgradeState) -> str:
    """The value of octavo.dev/upgrade that requests this release, again after a failed attempt."""
    release, attempt = case.fresh.release, _tried(case)
    if attempt is None or not _approves(attempt.approval, release):
        return release
    tried = attempt.approval.removeprefix(release).removeprefix(".")
    return f"{release}.{int(tried) + 1 if tried.isdigit() else 2}"


def _edited(case: UpgradeState) -> Step:
    """Keep the image that has served. A move that is under way continues only if the edit leaves its pods alone."""
    record, fresh = case.record, case.fresh
    if fresh.template == record.current.template:
        kept = replace(record, current=replace(record.current, asked=fresh.asked))
        return Step("Current" if record.move is None else "Moving", kept)
    proven = record.current if record.move is None else record.move.previous
    if proven.pin is None or fresh.pin is None or (not case.manual and nothing_to_lose(case)):
        pin = fresh.pin
    else:
        pin = proven.pin if proven.pin.variant == fresh.pin.variant else fresh.pin
    return Step("Edited", Record(replace(fresh, pin=pin), None, record.attempt))


def _tried(case: UpgradeState) -> Attempt | None:
    """The service's attempt at this very release that failed."""
    attempt = case.record.attempt
    failed = attempt is not None and not attempt.served and attempt.release == case.fresh.release
    return attempt if failed else None


def _was_tried_before_an_edit(case: UpgradeState) -> bool:
    return _tried(case) is not None and not passed_over(case)


def _is_approved(case: UpgradeState) -> bool:
    return _approves(case.approval, case.fresh.release)


def _approves(approval: str, release: str) -> bool:
    return approval == release or approval.startswith(f"{release}.")


def _name(pin: Pin | None) -> str:
    return "" if pin is None else pin.image
