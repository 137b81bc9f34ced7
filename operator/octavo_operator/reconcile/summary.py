"""Summarize one reconcile as conditions a user can act on: `summarize(service, plan, observed, …) -> StatusDraft`. Pure.

Ready means that the desired replicas answer (under autoscaling: the minimum), also during a rollout that keeps
them answering; Progressing that something moves; Stalled, as kstatus reads it, that nothing moves until a person acts.
Nothing that changes by itself enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from octavo_operator.api.conditions import (
    AUTOSCALING,
    FITS,
    MODEL_CACHED,
    PROGRESSING,
    READY,
    RECONCILING,
    STALLED,
    UP_TO_DATE,
    State,
    by_type,
    entry,
)
from octavo_operator.api.labels import selector_text
from octavo_operator.api.metrics_source import SERVED, MetricsSource
from octavo_operator.api.observed import Object, Observed
from octavo_operator.api.reasons import AnyReason, AutoscalingReason, Foreign, SpecReason, StateReason, StorageReason
from octavo_operator.api.status import MemoryStatus, ModelStatus, PlanStatus, Status
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.errors import ManifestError
from octavo_operator.planner import Plan
from octavo_operator.planner.sizes import human
from octavo_operator.reconcile import downloads, scaling
from octavo_operator.reconcile.applying import Outcome, Rejection
from octavo_operator.reconcile.cache_state import download_trouble, memory_of, model_cached
from octavo_operator.reconcile.diagnosis import claims, rejections
from octavo_operator.reconcile.diagnosis.pods import seen_trouble
from octavo_operator.reconcile.diagnosis.trouble import Trouble
from octavo_operator.reconcile.upgrades.report import UP_TO_DATE as UP_TO_DATE_REPORT
from octavo_operator.reconcile.upgrades.report import Report

NOTHING = "no action is needed"
NOT_YET = "it may still move on by itself"
EVICTIONS = 2  # for lack of disk: the first may be a neighbour's fault
LATE_RANK = 7  # of a deadline that has passed: above what is merely under way
TOO_LATE = "no replica of the change became ready in time"


@dataclass(frozen=True, slots=True)
class StatusDraft:
    """A status without its times, which follow from the former one."""

    status: Status
    conditions: Mapping[str, State]
    desired: int
    """Desired replicas."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Replicas of the Deployment."""

    desired: int
    existing: int
    ready: int
    updated: int
    observed: bool  # whether its controller has seen its spec


def summarize(
    service: LLMService,
    plan: Plan,
    observed: Observed,
    outcome: Outcome,
    upgrade: Report = UP_TO_DATE_REPORT,
    source: MetricsSource = SERVED,
    unknown: Sequence[str] = (),
) -> StatusDraft:
    """Summarize a service whose spec can be read; `unknown` has the fields that this version of the operator lacks."""
    counts, fetched = _counts(plan.name, observed), downloads.done(plan, observed)
    cached = model_cached(plan, observed, fetched)
    rejected = sorted((rejections.trouble_of(each) for each in outcome.rejected), key=lambda t: t.rank)
    trouble = rejected[0] if rejected else _trouble(plan, observed, counts)
    conditions = {
        **_main(service, plan, observed, counts, trouble, outcome),
        MODEL_CACHED: cached,
        AUTOSCALING: _autoscaling(service, plan, observed, source),
        FITS: _fits(plan),
        UP_TO_DATE: upgrade.state,
    }
    status = Status.model_validate(
        {
            "observedGeneration": service.metadata.generation,
            "replicas": counts.existing,
            "readyReplicas": counts.ready,
            "updatedReplicas": counts.updated,
            "readiness": f"{counts.ready}/{_shown_desired(plan, observed, counts)}",
            "selector": selector_text(plan.name),
            "url": f"{plan.engine.scheme}://{plan.name}.{plan.namespace}.svc:{plan.service_port}/v1",
            "model": ModelStatus.model_validate(
                {
                    "uri": str(service.spec.model.uri),
                    "displayName": service.spec.model.uri.rest.rstrip("/"),
                    "revision": service.spec.model.revision,
                    "commit": None if fetched is None else fetched.commit,
                    "summary": plan.model_summary,
                    "servedNames": list(plan.served_names),
                }
            ),
            "cache": memory_of(fetched or observed.downloaded),
            "plan": _plan(plan, _asides(plan, outcome, unknown)),
            "upgrade": upgrade.upgrade,
        }
    )
    return StatusDraft(status, conditions, _shown_desired(plan, observed, counts))


def invalid(body: Mapping[str, Any], observed: Observed, error: ManifestError) -> StatusDraft:
    """The status of a spec that can't be read: what runs is kept, and the field and the remedy are reported."""
    name, counts = body["metadata"]["name"], _counts(body["metadata"]["name"], observed)
    text = "; ".join(str(problem) for problem in error.problems[:5])
    kept = f"; what runs is kept ({counts.ready}/{counts.desired} answer)" if observed.children else ""
    autoscaler = observed.child("HorizontalPodAutoscaler", name)
    least = counts.desired if autoscaler is None else min(counts.desired, autoscaler["spec"].get("minReplicas", 1))
    answers = counts.ready >= least > 0
    state: State = (
        "True",
        StateReason.SERVING,
        f"{counts.ready} of {counts.desired} replicas answer, but a change is stuck: {text}",
    )
    state = state if answers else ("False", SpecReason.INVALID, text + kept)
    unknown = ("Unknown", SpecReason.INVALID, "the spec can't be read")
    spec = body.get("spec")
    model = spec.get("model") if isinstance(spec, dict) else None
    uri = str(model.get("uri") or "") if isinstance(model, dict) else ""
    status = Status.model_validate(
        {
            "observedGeneration": body["metadata"].get("generation"),
            "replicas": counts.existing,
            "readyReplicas": counts.ready,
            "updatedReplicas": counts.updated,
            "readiness": f"{counts.ready}/{counts.desired}",
            "selector": selector_text(name),
            "model": ModelStatus.model_validate({"uri": uri, "displayName": uri.partition("://")[2] or uri})
            if uri
            else None,
            "cache": memory_of(observed.downloaded),
            "upgrade": (body.get("status") or {}).get("upgrade"),
        }
    )
    conditions = {
        READY: state,
        PROGRESSING: ("False", SpecReason.INVALID, "reconciliation is paused until the spec is fixed"),
        STALLED: ("True", SpecReason.INVALID, text),
        **dict.fromkeys((MODEL_CACHED, AUTOSCALING, FITS, UP_TO_DATE), unknown),
    }
    return StatusDraft(status, conditions, counts.desired)


def _main(
    service: LLMService, plan: Plan, observed: Observed, counts: Counts, trouble: Trouble | None, outcome: Outcome
) -> dict[str, State]:
    """Ready, Progressing and Stalled, which go together."""
    desired = _shown_desired(plan, observed, counts)
    # What the autoscaler requests beyond the minimum is more capacity: the service is not down until it is there.
    enough = desired if plan.scale.replicas is not None else min(desired, plan.scale.minimum)
    answers = counts.ready >= enough > 0
    held = f"; {'; '.join(outcome.held)}: left as it is" if outcome.held else ""
    answer = f"{counts.ready} of {desired} replicas answer"
    if plan.refusal is not None:
        why = (plan.refusal.reason, f"{plan.refusal.message}; {plan.refusal.remedy}")
        kept = f"; what runs is kept: {answer}" if counts.existing else ""
        return {
            READY: ("True" if answers else "False", why[0], why[1] + kept),
            PROGRESSING: ("False", *why),
            STALLED: ("True", *why),
        }
    if trouble is not None and trouble.stuck:
        ready = ("True", StateReason.SERVING, f"{answer}, but a change is stuck: {trouble.message}") if answers else (
            "False", trouble.reason, trouble.message
        )  # fmt: skip
        return {
            READY: ready,
            PROGRESSING: ("False", trouble.reason, "it does not move on"),
            STALLED: ("True", trouble.reason, trouble.message),
        }
    stalled = ("False", StateReason.PROGRESSING, NOT_YET)
    if service.spec.suspend or desired == 0:
        reason = StateReason.SUSPENDED if service.spec.suspend else StateReason.SCALED_TO_ZERO
        remedy = "suspend: false" if service.spec.suspend else "replicas: 1"
        text = f"no replica is desired; {remedy} starts it"
        if scaling.is_autoscaled(plan, observed):
            text = f"the autoscaler {observed.autoscaler} has scaled it to zero, and starts it again"
        moves = ("True", reason, "replicas end") if counts.existing else ("False", reason, "no replica runs")
        return {READY: ("False", reason, text + held), PROGRESSING: moves, STALLED: ("False", reason, NOTHING)}
    rolling = not counts.observed or counts.updated < counts.desired or counts.existing > counts.desired
    if answers and not rolling and trouble is None:
        return {
            READY: ("True", StateReason.SERVING, answer + held),
            PROGRESSING: ("False", StateReason.SERVING, "all replicas follow the spec"),
            STALLED: ("False", StateReason.SERVING, NOTHING),
        }
    cause: tuple[AnyReason, str] = (StateReason.ROLLING_OUT, f"a change reaches the replicas{_outage(plan)}")
    if trouble is not None:
        cause = (trouble.reason, trouble.message)
    ready = (
        ("True", StateReason.SERVING, f"{answer}; {cause[1]}{held}")
        if answers
        else ("False", cause[0], cause[1] + held)
    )
    return {READY: ready, PROGRESSING: ("True", *cause), STALLED: stalled}


def _outage(plan: Plan) -> str:
    if not plan.rollout.recreate:
        return ""
    return f" in place ({plan.rollout.reason}): none answers until the new one has loaded its model"


def _trouble(plan: Plan, observed: Observed, counts: Counts) -> Trouble | None:
    """The reason why replicas are missing: the gravest among claim, download, Deployment and pods."""
    found = [t for pod in _counting(observed) if (t := seen_trouble(pod, plan, observed)) is not None]
    if (full := _disk_is_full(plan, observed, counts)) is not None:
        found.append(full)
    if (detained := claims.detained(plan, observed)) is not None:
        found.append(detained)
    if plan.cache is not None and (claimed := claims.trouble_of(plan.cache, observed)) is not None:
        found.append(claimed)
    elif downloads.waits(plan, observed) and plan.scale.maximum > 0:
        found.append(download_trouble(plan, observed))
    if plan.rollout.held:
        found.append(
            Trouble(StateReason.ROLLOUT_PENDING, f"the change has not begun: {plan.rollout.held}", stuck=False, rank=8)
        )
    deployment = observed.child("Deployment", plan.name)
    conditions = by_type((deployment or {}).get("status"))
    failure, progressing = conditions.get("ReplicaFailure", {}), conditions.get("Progressing", {})
    if failure.get("status") == "True":
        rejection = Rejection("Pod", plan.name, failure["reason"], failure["message"], status=403)
        found.append(rejections.trouble_of(rejection))
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        # What was waited for until now did not come within the Deployment's deadline.
        found = [replace(t, stuck=True, message=f"{t.message}; {TOO_LATE}") for t in found if t.rank < LATE_RANK]
        text = f"{TOO_LATE}: {progressing['message']}; see kubectl describe pod, and kubectl logs of the newest one"
        found.append(Trouble(StateReason.DEADLINE_EXCEEDED, text, stuck=True, rank=LATE_RANK))
    if deployment is None and plan.refusal is None:
        found.append(Trouble(StateReason.CREATING, "its objects are being made", stuck=False, rank=9))
    replaced = plan.rollout.recreate and observed.change is not None  # a recreation has a message of its own
    if not found and counts.ready < counts.desired and not replaced:
        found.append(Trouble(StateReason.STARTING, "replicas are being started", stuck=False, rank=9))
    return min(found, key=lambda trouble: trouble.rank, default=None)


def _counting(observed: Observed) -> list[Object]:
    """Replicas that still count. One that has failed for good is replaced, and its object may stay for long: it explains
    something only while it is the newest."""
    pods = observed.engines
    newest = pods[-1:]  # they are sorted by age
    return [pod for pod in pods if pod.get("status", {}).get("phase") not in {"Failed", "Succeeded"}] or newest


def _disk_is_full(plan: Plan, observed: Observed, counts: Counts) -> Trouble | None:
    """A replica downloads its model onto the node's disk, is evicted for it, and the next one does the same again."""
    evicted = [
        pod
        for pod in observed.pods
        if pod.get("status", {}).get("reason") == "Evicted"
        and any(each in str(pod["status"].get("message", "")) for each in ("ephemeral", "EmptyDir", "inodes"))
    ]
    if len(evicted) < EVICTIONS or counts.ready >= counts.desired:
        return None
    asked = plan.resources.requests.get("ephemeral-storage")
    asks = f"requests {asked} of it" if asked else "requests none of it"
    remedy = "cache: {} keeps the model on a volume" if plan.cache is None else "see what else fills it"
    text = (
        f"replicas are evicted again and again, for the disk of their node is full; a replica {asks}: {remedy}, "
        "resources.requests.ephemeral-storage chooses a node with more"
    )
    return Trouble(StorageReason.DISK_FULL, text, stuck=True, rank=3)


def _autoscaling(service: LLMService, plan: Plan, observed: Observed, source: MetricsSource) -> State:
    if service.spec.autoscaling is None:
        return ("False", AutoscalingReason.NOT_CONFIGURED, "spec.autoscaling is not set")
    if plan.scale.replicas is not None:
        return ("False", StateReason.SUSPENDED, "suspended: nothing is scaled")
    autoscaler = observed.child("HorizontalPodAutoscaler", plan.name)
    if autoscaler is None:
        return ("Unknown", StateReason.CREATING, "the HorizontalPodAutoscaler is not there yet")
    conditions = by_type(autoscaler.get("status"))
    for kind in ("AbleToScale", "ScalingActive"):
        condition = conditions.get(kind)
        if condition is not None and condition["status"] == "False":
            if condition["reason"] == "ScalingDisabled":
                return ("False", AutoscalingReason.DISABLED, "it rests while the Deployment has no replicas")
            held = f"{condition['message']}; until then replicas stay as they are"
            # Without a source of ours the autoscaler's own reason is only that it found none.
            reason = source.reason if source.remedy else Foreign(str(condition["reason"]))
            return ("False", reason, f"{source.remedy}; {held}" if source.remedy else held)
    remedy = f"; {source.remedy}" if source.remedy else ""
    if not conditions:
        return ("Unknown", StateReason.STARTING, "the autoscaler has not looked yet" + remedy)
    bounds = f"between {plan.scale.minimum} and {plan.scale.maximum} replicas"
    return ("True", AutoscalingReason.ACTIVE, f"{bounds} by the requests that wait{remedy}")


def _fits(plan: Plan) -> State:
    fit = plan.fit
    remedy = f"; {fit.remedy}" if fit.remedy else ""
    return (fit.state, fit.reason, fit.message + remedy)


def _counts(name: str, observed: Observed) -> Counts:
    deployment: Mapping[str, Any] = observed.child("Deployment", name) or {"metadata": {}, "spec": {}}
    status = deployment.get("status", {})
    return Counts(
        desired=int(deployment["spec"].get("replicas", 0)),
        existing=int(status.get("replicas", 0)),
        ready=int(status.get("readyReplicas", 0)),
        updated=int(status.get("updatedReplicas", 0)),
        observed=status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1),
    )


def _shown_desired(plan: Plan, observed: Observed, counts: Counts) -> int:
    """Replicas that the spec requests; under autoscaling those that the autoscaler requests, once it does."""
    if not scaling.is_autoscaled(plan, observed):
        return plan.scale.replicas or 0
    return counts.desired if plan.scale.replicas is not None else counts.desired or plan.scale.minimum


def _asides(plan: Plan, outcome: Outcome, unknown: Sequence[str]) -> tuple[str, ...]:
    """Warnings that follow from what is there rather than from the plan."""
    kept = tuple(
        f"the claim {name} is no longer used and is kept, for it holds data; "
        f"kubectl delete pvc -n {plan.namespace} {name} deletes it"
        for name in outcome.kept
    )
    if not unknown:
        return kept
    names = ", ".join(unknown)
    return (*kept, f"{names}: not known to this version of the operator and without effect; upgrade the operator")


def _plan(plan: Plan, asides: Sequence[str]) -> PlanStatus:
    budget = plan.fit.budget
    memory = None
    if budget is not None:
        memory = MemoryStatus.model_validate(
            {
                "capacity": human(budget.capacity),
                "weights": human(budget.weights),
                "kvCache": human(max(budget.kv, 0)),
                "overhead": human(budget.overhead),
            }
        )
    return PlanStatus.model_validate(
        {
            "cards": plan.hardware.gpus,
            "products": list(plan.hardware.products),
            "image": plan.engine.image or None,
            "maxModelLen": plan.limits.max_model_len,
            "concurrentSequences": None if budget is None else budget.sequences,
            "memory": memory,
            "startupSeconds": plan.lifecycle.expected,
            "drainSeconds": plan.lifecycle.drain,
            "rollout": plan.rollout.strategy,
            "rolloutReason": plan.rollout.reason,
            "reasons": list(plan.reasons),
            "warnings": [*plan.warnings, *asides],
        }
    )


def conditions_of(
    states: Mapping[str, State], generation: int | None, before: Mapping[str, Any], now: str
) -> list[dict[str, Any]]:
    """The conditions with their times; `before` is the former status."""
    known, progressing = by_type(before), states[PROGRESSING]
    reconciling = {RECONCILING: progressing} if progressing[0] == "True" else {}
    return [
        entry(kind, state, known.get(kind, {}), generation, now) for kind, state in {**states, **reconciling}.items()
    ]
