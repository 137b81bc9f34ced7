"""The order of steps, nothing else: parse → observe → plan → render → apply → observe → summarize → patch status.

One function for a creation, an edit, a restart, a child's event and the resync alike. It gets a name and reads
everything else itself; it may be killed anywhere and run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from octavo_operator.api.conditions import CONDITION_TYPES, STALLED, TWO_OPERATORS, by_type
from octavo_operator.api.manifest import read
from octavo_operator.api.metrics_source import SERVED, MetricsSource
from octavo_operator.api.names import NamespacedName
from octavo_operator.api.observed import Observed
from octavo_operator.api.reasons import FitReason, StateReason
from octavo_operator.api.resources import DEPLOYMENTS, EVENTS, SERVICES
from octavo_operator.api.v1alpha1 import API_VERSION, KIND, LLMService
from octavo_operator.children import Manifest, render
from octavo_operator.cluster.client import Cluster, Object
from octavo_operator.cluster.drift import same_template
from octavo_operator.errors import ApiError, ManifestError
from octavo_operator.planner import Plan, plan
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.planner.storage import referenced
from octavo_operator.reconcile import downloads, failed_pass, free_gpus, scaling, summary
from octavo_operator.reconcile.applying import Applier
from octavo_operator.reconcile.capacity_feed import CapacityFeed
from octavo_operator.reconcile.events import events_of, plan_warnings, restored, rivalry
from octavo_operator.reconcile.kinds_seen import KindsSeen
from octavo_operator.reconcile.metrics import Metrics
from octavo_operator.reconcile.observing import observe, with_writes
from octavo_operator.reconcile.rivals import OTHER, Rivals, in_words
from octavo_operator.reconcile.summary import StatusDraft
from octavo_operator.reconcile.turns import Turns
from octavo_operator.reconcile.undeclared import Undeclared
from octavo_operator.reconcile.upgrades.paced import Paced, asked_before, live_deployment, paced, reported
from octavo_operator.reconcile.upgrades.upgrades import Upgrades
from octavo_operator.settings import Settings

log = logging.getLogger(__name__)

Result = Literal["gone", "unchanged", "changed", "waiting"]
"""`waiting`: for what no watch reports (a permission, a volume, an Event about a pod, time), so it is due again later."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """One operator's reconcile, with all that does not change from one pass to the next."""

    cluster: Cluster
    settings: Settings
    identity: str
    feed: CapacityFeed | None  # None where nodes may not be seen
    metrics: Metrics
    rivals: Rivals
    upgrades: Upgrades
    turns: Turns = field(default_factory=Turns)
    source: Callable[[], MetricsSource] = lambda: SERVED  # where autoscalers get their metrics from, as it is now
    kinds: KindsSeen = field(default_factory=KindsSeen)
    undeclared: Undeclared = field(default_factory=Undeclared)

    def doubt(self) -> None:
        """Discards what was concluded from former answers, so that all is asked for again."""
        self.kinds.doubt()
        self.undeclared.doubt()

    async def reconcile(self, key: NamespacedName) -> Result:
        """Run one pass. Raises ApiError, UnreachableError or NotLeadingError where it can't be completed: try again."""
        body = await self.cluster.get(SERVICES, key.namespace, key.name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self.rivals.forget(key)
            self.turns.leave(key)
            self.upgrades.leave(key)
            self.kinds.forget(key)
            return "gone"  # the children follow their owner
        rival = self.rivals.of(key, body.get("status"))
        if rival is not None and not await self.rivals.is_gone(self.cluster, rival):
            self.turns.leave(key)
            self.upgrades.leave(key)
            log.warning("left alone: the operator of namespace %s reconciles it too", rival, extra=key.logged)
            await self._post(rivalry(body, rival, self.rivals.own, self.identity))
            if (status := failed_pass.status_beside(body, rival, self.rivals.own, self._now())) is not None:
                await self._write(body, status, only_as_seen=True)
            return "unchanged"
        try:
            return await self._pass(key, body)
        except ApiError as error:
            await self._report_refusal(body, error)
            raise

    async def _pass(self, key: NamespacedName, body: Object) -> Result:
        try:
            service, unknown = read(body)
        except ManifestError as error:
            return await self._keep(key, body, error)
        await self.upgrades.read()
        observed = await observe(self.cluster, body, service, self.feed, self.kinds)
        found = self._plan(key, body, service, observed)
        made = found.plan
        outcome = await Applier(self.cluster, made, observed, key.logged, referenced(service)).run(found.desired)
        if found.begins and (why := outcome.rejection_of(DEPLOYMENTS.kind)):
            found = found.without_the_move(why)
            now_seen = with_writes(observed, outcome, key.name, self.feed, self.cluster.now())
            applier = Applier(self.cluster, made, now_seen, key.logged, referenced(service))
            outcome = outcome.followed_by(await applier.run(found.desired))
        if outcome.wrote:
            edited = (body.get("status") or {}).get("observedGeneration") != body["metadata"].get("generation")
            if found.steady and not edited:
                for event in restored(body, observed.children, outcome.changed, self.identity):
                    await self._post(event)
            self.kinds.note(key, {each["kind"] for each in outcome.answers})
            observed = with_writes(observed, outcome, key.name, self.feed, self.cluster.now())
        upgrade = reported(key, body, found, self.upgrades)
        draft = summary.summarize(service, made, observed, outcome, upgrade, self.source(), unknown)
        self._settle(key, service, found, observed, draft)
        wrote = await self._report(body, draft)
        for each in outcome.rejected:
            log.warning("%s %s was refused: %s", each.kind, each.name, each.words, extra=key.logged)
        if outcome.conflict is not None:
            raise outcome.conflict
        if outcome.rejected or made.rollout.waits or found.held or observed.claim_waits:
            return "waiting"
        if wrote or outcome.wrote:
            return "changed"  # which causes an event, and so another pass
        return "waiting" if observed.job_waits or any(map(free_gpus.has_not_started, observed.pods)) else "unchanged"

    def _plan(self, key: NamespacedName, body: Object, service: LLMService, observed: Observed) -> Paced:
        """The plan, given what other services are about to take, and its turn where it needs one.

        There is no await within, so that no two services are promised the same GPU, or take the same turn. For the same
        reason free GPUs are counted again: since they were observed, a promise may have become a pod.
        """
        hardware = hardware_of(service.spec)
        if observed.free_gpus is not None and self.feed is not None:
            free = free_gpus.free_for(hardware, service.spec.pod_template, self.feed.last, observed.engines)
            free -= self.turns.promised(hardware, key)
            observed = replace(observed, free_gpus=max(0, free))

        def planned(settings: Settings) -> Plan:
            made = plan(service, observed, settings)
            if made.fit.reason is not FitReason.ALREADY_SERVING:
                return made
            kept = asked_before(body, observed) or _stays(render(made), observed)
            return made if kept else plan(service, replace(observed, serving=False), settings)

        found = paced(key, body, service, observed, self.settings, self.upgrades, planned, self.cluster.now())
        made, live = found.plan, live_deployment(body, observed)
        if not _takes_turns(service) or made.refusal is not None or live is None or observed.change is not None:
            return found
        if _stays(found.desired, observed) or downloads.waits(made, observed) or not _serves(live, made):
            return found
        if why := self._held(key, made, observed):
            self.turns.wait(key, hardware)
            if found.begins:
                self.upgrades.leave(key)  # which has its own words for it
                return found.held_back(why)
            return replace(found, plan=replace(made, rollout=replace(made.rollout, waits=True, reason=why, held=why)))
        self.turns.take(key, hardware, int(live["status"]["readyReplicas"]))
        return found

    def _held(self, key: NamespacedName, made: Plan, observed: Observed) -> str:
        """The reason why the replicas are not to be replaced yet; empty where they may be."""
        if made.rollout.strategy == "Surge":
            return ""
        remedy = "rollout.strategy: InPlace does not wait for it"
        if (other := self.turns.other(key, made.hardware)) is not None:
            name = other.name if other.namespace == key.namespace else "a service of another namespace"
            return (
                f"no GPU is free for a surge, and {name} replaces its replicas on GPUs of the same kind; this change "
                f"begins when that one is over; {remedy}"
            )
        if observed.contender:
            namespace, _, pod = observed.contender.partition("/")
            name = f"the pod {pod}" if namespace == key.namespace else "a pod of another namespace"
            return (
                f"no GPU is free for a surge, and {name} waits for one: it would take the GPU that this change frees; "
                f"add a node, or end what waits; {remedy}"
            )
        return ""

    def _settle(
        self, key: NamespacedName, service: LLMService, found: Paced, observed: Observed, draft: StatusDraft
    ) -> None:
        """Keeps the turn while the change moves on, and passes it on where it does not."""
        made, live = found.plan, observed.child(DEPLOYMENTS.kind, key.name)
        if made.rollout.held or found.held:
            return
        if live is None or not _takes_turns(service) or draft.conditions[STALLED][0] == "True":
            self.turns.leave(key)
        elif observed.change is not None:
            placed = self.feed is not None and free_gpus.are_counted(live, observed.engines, self.feed.last)
            self.turns.keep(key, made.hardware, live["spec"].get("progressDeadlineSeconds", 600), placed=placed)
        elif not self.turns.loads(key, draft.status.ready_replicas or 0, draft.desired):
            self.turns.leave(key)

    async def _keep(self, key: NamespacedName, body: Object, error: ManifestError) -> Result:
        """Keeps what runs, unless even the broken spec plainly stops it."""
        self.turns.leave(key)
        observed = await observe(self.cluster, body, None, None, self.kinds)
        self.upgrades.leave(key, live_deployment(body, observed))
        live: Any = observed.child(DEPLOYMENTS.kind, key.name)
        if live is not None and scaling.running(live) and scaling.asks_to_stop(body):
            await scaling.set_number(self.cluster, live, 0, key.logged)
            observed = await observe(self.cluster, body, None, None, self.kinds)
        wrote = await self._report(body, summary.invalid(body, observed, error))
        return "changed" if wrote else "unchanged"

    async def _report(self, body: Object, draft: StatusDraft) -> bool:
        """Writes the status where it changes, after the Events that report the change."""
        metadata = body["metadata"]
        key = NamespacedName(metadata["namespace"], metadata["name"])
        self.metrics.record(
            key,
            draft.status.ready_replicas or 0,
            draft.desired,
            {kind: state[0] for kind, state in draft.conditions.items()},
        )
        before = body.get("status") or {}
        now = self._now()
        desired = draft.status.model_dump(by_alias=True, exclude_none=True)
        desired["operator"] = self.rivals.own
        if (other := await self.rivals.gave_way(self.cluster, key, before)) is not None:
            desired[OTHER] = other
            words = in_words(self.rivals.own, other)
            draft = replace(
                draft, conditions={**draft.conditions, TWO_OPERATORS: ("True", StateReason.TWO_OPERATORS, words)}
            )
        desired["conditions"] = summary.conditions_of(draft.conditions, metadata.get("generation"), before, now)
        desired = self.undeclared.without(desired)
        if desired == _ours(before):
            return False
        for event in events_of(body, desired, self.identity):
            await self._post(event)
        return await self._write(body, desired)

    async def _report_refusal(self, body: Object, error: ApiError) -> None:
        """A pass that the API server does not let us make is in the status, if that may still be written."""
        if (status := failed_pass.status_after(body, error, self._now())) is not None:
            try:
                await self._write(body, status)
            except ApiError as refusal:
                log.warning("the status could not be written: %s", refusal)

    def _now(self) -> str:
        """The time by the API server's clock, as all times in objects are."""
        return self.cluster.now().isoformat(timespec="seconds").replace("+00:00", "Z")

    async def _write(self, body: Object, status: Mapping[str, Any], *, only_as_seen: bool = False) -> bool:
        """`only_as_seen`: a 409 where another has written meanwhile."""
        metadata = body["metadata"]
        names = ("name", "namespace", "uid", *(["resourceVersion"] if only_as_seen else []))
        identity = {name: metadata[name] for name in names}
        manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": identity, "status": status}
        try:
            await self.cluster.apply(SERVICES, manifest, subresource="status")
        except ApiError as error:
            if error.status == 404:
                return False  # deleted meanwhile
            if (shorter := self.undeclared.learn(error, status)) is not None:
                log.warning("the definition of LLMServices is older than this operator: %s", error.words)
                for event in plan_warnings(body, shorter, self.identity):
                    await self._post(event)
                return await self._write(body, shorter, only_as_seen=only_as_seen)
            raise
        return True

    async def _post(self, event: Object) -> None:
        """Post an Event; a failure delays nothing."""
        try:
            await self.cluster.create(EVENTS, event)
        except ApiError as error:
            if error.status != 409:
                about = {"namespace": event["metadata"]["namespace"], "name": event["regarding"]["name"]}
                log.warning("an Event could not be posted: %s", error.words, extra={"about": about})


def _stays(desired: tuple[Manifest, ...], observed: Observed) -> bool:
    """True if the replicas that run are what is desired: only those are kept although they would not fit."""
    return all(
        (live := observed.child(each["kind"], each["metadata"]["name"])) is not None and same_template(each, dict(live))
        for each in desired
        if each["kind"] == DEPLOYMENTS.kind
    )


def _takes_turns(service: LLMService) -> bool:
    """True if a service needs a turn: it has GPUs, and no person has decided how a change is made."""
    return service.spec.rollout.strategy == "Auto" and hardware_of(service.spec).gpus > 0


def _serves(live: Mapping[str, Any], made: Plan) -> bool:
    """True if there is something to lose: a replica answers, and is to go on doing so."""
    return bool(live.get("status", {}).get("readyReplicas")) and made.scale.replicas != 0


def _ours(before: Mapping[str, Any]) -> dict[str, Any]:
    """The status without the conditions of others."""
    conditions = by_type(before)
    return {**before, "conditions": [conditions[kind] for kind in CONDITION_TYPES if kind in conditions]}
