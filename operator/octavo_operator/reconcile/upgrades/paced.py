"""The objects that a service is to have now, which may be an older release's: plan, render, take a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from octavo_operator.api.conditions import UP_TO_DATE, by_type
from octavo_operator.api.names import NamespacedName
from octavo_operator.api.observed import Object, Observed
from octavo_operator.api.resources import DEPLOYMENTS
from octavo_operator.api.v1alpha1 import UPGRADE, LLMService
from octavo_operator.children import Manifest, render
from octavo_operator.cluster.drift import same_template
from octavo_operator.planner import Plan
from octavo_operator.planner.images import variant_of
from octavo_operator.reconcile.diagnosis.pods import seen_trouble
from octavo_operator.reconcile.upgrades import report
from octavo_operator.reconcile.upgrades.rendering import Pin, Record, Rendering, adopted, annotated, asked_of, recorded
from octavo_operator.reconcile.upgrades.replicas import replicas_of
from octavo_operator.reconcile.upgrades.report import Report
from octavo_operator.reconcile.upgrades.step import Step, UpgradeState, refused
from octavo_operator.reconcile.upgrades.upgrades import Upgrades
from octavo_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Paced:
    """The plan, and the objects that follow from it now."""

    plan: Plan
    desired: tuple[Manifest, ...]
    case: UpgradeState | None = None
    """The upgrade's case; None where there is nothing to upgrade: a new service, or one whose plan is refused."""
    step: Step | None = None
    steady: bool = False
    """The Deployment has its record already: what is written to it undoes what others changed."""
    held: str = ""
    """The reason why a move that has its turn does not begin: GPUs are scarce."""

    @property
    def begins(self) -> bool:
        """True if this very pass begins to replace the replicas because of an upgrade."""
        return (
            self.case is not None
            and self.step is not None
            and (self.step.record.move is not None and self.case.record.move is None)
        )

    def held_back(self, why: str) -> Paced:
        """Undo a move that has its turn while GPUs are scarce: it is decided again in the next pass."""
        assert self.case is not None
        step = Step("Waiting", self.case.record)
        return replace(self, desired=_given(self.desired, step.record), step=step, held=why)

    def without_the_move(self, why: str) -> Paced:
        """Undo a move whose first objects the API server did not take."""
        assert self.case is not None
        step = refused(self.case, why)
        return replace(self, desired=_given(self.desired, step.record), step=step)


def asked_before(body: Object, observed: Observed) -> bool:
    """True if the replicas were rendered from the present manifest."""
    live = live_deployment(body, observed)
    record = None if live is None else recorded(live)
    return record is not None and record.current.asked == asked_of(body)


def live_deployment(body: Object, observed: Observed) -> Object | None:
    """The service's own; a former service's of that name is none."""
    metadata = body["metadata"]
    live = observed.child(DEPLOYMENTS.kind, metadata["name"])
    owners = () if live is None else live["metadata"].get("ownerReferences", ())
    return None if any(owner.get("controller") and owner["uid"] != metadata["uid"] for owner in owners) else live


def paced(
    key: NamespacedName,
    body: Object,
    service: LLMService,
    observed: Observed,
    settings: Settings,
    upgrades: Upgrades,
    planned: Callable[[Settings], Plan],
    now: datetime,
) -> Paced:
    """`now` is the API server's time; `planned` gives the plan with the default images of some settings."""
    made = planned(settings)
    desired = render(made)
    if made.refusal is not None:
        upgrades.leave(key, live_deployment(body, observed))
        return Paced(made, desired)
    variant = variant_of(service.spec.engine, made.hardware)
    pin = None if variant is None else Pin(variant, settings.images[variant], settings.version)
    fresh = Rendering(asked_of(body), settings.release, pin, _deployment(desired)["spec"]["template"])
    live = live_deployment(body, observed)
    manual = service.spec.rollout.upgrade_policy == "Manual"
    if live is None:
        upgrades.leave(key)
        kept = _pinned(body, pin) if manual else pin
        return _rendered(Paced(made, desired), Record(replace(fresh, pin=kept)), pin, settings, planned)
    given = record = recorded(live)
    if record is None:
        record = adopted(live, body, fresh)
        if same_template(_deployment(desired), dict(live)):
            record = Record(replace(fresh, asked=record.current.asked))
    engines = observed.engines
    trouble_of = partial(seen_trouble, plan=made, observed=observed)
    status: Mapping[str, Any] = body.get("status") or {}
    case = UpgradeState(
        record,
        fresh,
        replicas_of(live, engines, trouble_of, "" if record.move is None else record.move.since),
        now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        manual,
        service.metadata.annotations.get(UPGRADE, ""),
        "upgrade" in status or UP_TO_DATE not in by_type(status),
    )
    step = upgrades.next_step(key, case)
    steady = given == step.record
    if step.renders:
        return _rendered(Paced(made, desired, case, step, steady), step.record, pin, settings, planned)
    if step.record.current.pin != pin:
        made = planned(_with(settings, step.record.current.pin))
        desired = render(made)
    return Paced(made, _given(desired, step.record), case, step, steady)


def reported(key: NamespacedName, body: Object, found: Paced, upgrades: Upgrades) -> Report:
    """The upgrade as the status reports it."""
    before = (body.get("status") or {}).get("upgrade")
    if found.plan.refusal is not None:
        refusal = found.plan.refusal
        return Report(("Unknown", refusal.reason, f"{refusal.message}; {refusal.remedy}"), before)
    if found.case is None or found.step is None:
        return replace(report.UP_TO_DATE, upgrade=before)
    return report.reported(key, found.case, found.step, upgrades.stopped, upgrades.limit, served=before is not None)


def _rendered(
    found: Paced, record: Record, pin: Pin | None, settings: Settings, planned: Callable[[Settings], Plan]
) -> Paced:
    """Render with the record's pin and today's template."""
    made, desired = found.plan, found.desired
    if record.current.pin != pin:
        made = planned(_with(settings, record.current.pin))
        desired = render(made)
    if made.refusal is not None:
        return replace(found, plan=made, desired=desired)
    record = replace(record, current=replace(record.current, template=_deployment(desired)["spec"]["template"]))
    return replace(found, plan=made, desired=_given(desired, record))


def _given(desired: tuple[Manifest, ...], record: Record) -> tuple[Manifest, ...]:
    return tuple(annotated(each, record) if each["kind"] == DEPLOYMENTS.kind else each for each in desired)


def _deployment(desired: tuple[Manifest, ...]) -> Manifest:
    return next(each for each in desired if each["kind"] == DEPLOYMENTS.kind)


def _with(settings: Settings, pin: Pin | None) -> Settings:
    """Settings whose default image is the pin's. One that was adopted may be of any version: the oldest, then."""
    if pin is None:
        return settings
    return replace(settings, images=settings.images | {pin.variant: pin.image}, version=pin.version or "0")


def _pinned(body: Object, default: Pin | None) -> Pin | None:
    """The pin of a service whose Deployment is gone, as its status has it."""
    values: Mapping[str, Any] = (body.get("status") or {}).get("upgrade") or {}
    if default is None or values.get("variant") != default.variant or not values.get("image"):
        return default
    return Pin(default.variant, str(values["image"]), str(values.get("version") or ""))
