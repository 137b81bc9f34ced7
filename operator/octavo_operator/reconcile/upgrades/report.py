"""An upgrade in the status: the condition UpToDate, and `status.upgrade`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from octavo_operator.api.conditions import State
from octavo_operator.api.names import NamespacedName
from octavo_operator.api.reasons import UpgradeReason
from octavo_operator.api.v1alpha1 import UPGRADE
from octavo_operator.reconcile.upgrades.step import Step, UpgradeState, approval_for

_UP_TO_DATE: State = (
    "True",
    UpgradeReason.UP_TO_DATE,
    "the replicas have what this release of the operator gives them",
)


@dataclass(frozen=True, slots=True)
class Report:
    """An upgrade's part of the status."""

    state: State
    """The condition UpToDate."""
    upgrade: Mapping[str, Any] | None
    """`status.upgrade`; None until the service has served."""


UP_TO_DATE = Report(_UP_TO_DATE, None)


def reported(
    key: NamespacedName, case: UpgradeState, taken: Step, stopped: Sequence[NamespacedName], limit: int, *, served: bool
) -> Report:
    """Reports one service's step; `served` is whether it ever has."""
    state, current = _state(key, case, taken, stopped, limit), taken.record.current
    if not served and not case.replicas.ready:
        return Report(state, None)
    pin = {} if current.pin is None else asdict(current.pin)
    available = {} if state[0] == "True" else {"available": case.fresh.release}
    values = {"release": current.release, **pin, **available}
    return Report(state, {name: value for name, value in values.items() if value})


def _state(
    key: NamespacedName, case: UpgradeState, taken: Step, stopped: Sequence[NamespacedName], limit: int
) -> State:
    """The state of the replicas: whether they have what this release of the operator renders; if not, why, and the
    remedy.
    """
    new, old = _name(case, fresh=True), _name(case, fresh=False)
    take = f"kubectl annotate llms -n {key.namespace} {key.name} --overwrite {UPGRADE}={approval_for(case)}"
    match taken.phase:
        case "Moving":
            return (
                "False",
                UpgradeReason.UPGRADING,
                f"the replicas move to {new}; if they do not serve, they get {old} back",
            )
        case "PutBack" | "PassedOver":
            attempt = taken.record.attempt
            why = f": {attempt.why}" if attempt is not None else ""
            text = (
                f"{new} did not serve{why}; the replicas have {old} again. Fix the cause, then edit the spec or {take}"
            )
            return ("False", UpgradeReason.FAILED, text)
        case "Offered":
            text = f"{new} is available, and rollout.upgradePolicy is Manual. To take it: {take}"
            return ("False", UpgradeReason.AVAILABLE, text)
        case "Busy":
            text = f"{new} waits until the replicas serve what they have ({old})"
            return ("False", UpgradeReason.PENDING, text)
        case "Waiting" if stopped:
            names = ", ".join("/".join(each) for each in stopped)
            text = (
                f"{new} is held back: {names} did not serve it, one after the other, and have their former images "
                f"again. Fix the cause (their UpToDate says why); upgrades go on once one of them serves it, or with the "
                f"operator's next release. To take it here: {take}"
            )
            return ("False", UpgradeReason.STOPPED, text)
        case "Waiting":
            services = "service moves" if limit == 1 else "services move"
            text = f"{new} waits for its turn: {limit} {services} at a time (upgrades.maxConcurrent)"
            return ("False", UpgradeReason.PENDING, text)
        case _ if taken.phase == "Edited" and taken.record.current.pin != case.fresh.pin:
            return ("False", UpgradeReason.PENDING, f"{new} waits until the replicas serve what they have ({old})")
        case _:
            return _UP_TO_DATE


def _name(case: UpgradeState, *, fresh: bool) -> str:
    """Name one of two renderings: by its image where these differ, else by its release."""
    record = case.record
    proven = record.current if record.move is None else record.move.previous
    one, other = (case.fresh, proven) if fresh else (proven, case.fresh)
    if one.pin is not None and other.pin is not None and one.pin.image != other.pin.image:
        return one.pin.image
    if fresh:
        return f"the pod template of release {one.release}"
    return f"the pod template of release {one.release}" if one.release else "their former pod template"
