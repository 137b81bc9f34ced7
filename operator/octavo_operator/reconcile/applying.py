"""Brings the children to their desired state, and writes only where they differ.

Owns what differs between kinds: a Job's template can't be changed, a Deployment's replicas may be the autoscaler's,
an optional child goes when it is no longer wanted, a claim that holds data never does. Stopping comes first: neither a
refused spec nor a download nor a child that is refused holds it up.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from octavo_operator.api.observed import Observed
from octavo_operator.api.resources import AUTOSCALERS, BY_KIND, CLAIMS, DEPLOYMENTS, JOBS
from octavo_operator.api.v1alpha1 import KIND
from octavo_operator.children import Manifest
from octavo_operator.children.preload_job import DOWNLOAD, TEMPLATE
from octavo_operator.cluster.client import Cluster, Object
from octavo_operator.cluster.drift import differs, same_template, without_others
from octavo_operator.cluster.field_ownership import HANDOVER, ours, owns
from octavo_operator.errors import ApiError, UnreachableError
from octavo_operator.planner import Plan
from octavo_operator.reconcile import downloads, scaling

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A child that could not be made what it should be."""

    kind: str
    name: str
    reason: str  # Kubernetes' word, or ours: NameTaken, FormerTerminating, Terminating, NoAnswer
    words: str
    causes: tuple[str, ...] = ()
    status: int = 0


@dataclass
class Outcome:
    """The result of applying the children."""

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    held: list[str] = field(default_factory=list)  # fields that another manager holds
    kept: list[str] = field(default_factory=list)  # claims that are no longer desired and hold data
    answers: list[Object] = field(default_factory=list)  # what was written, as the API server has it now
    conflict: ApiError | None = None  # another writer was first: to be reconciled again at once

    @property
    def wrote(self) -> bool:
        return bool(self.created or self.changed or self.removed)

    def followed_by(self, later: Outcome) -> Outcome:
        """The result of two runs of one pass: what both wrote, and what stands in the way after the second."""
        return replace(
            later,
            created=self.created + later.created,
            changed=self.changed + later.changed,
            removed=self.removed + later.removed,
            answers=self.answers + later.answers,
        )

    def rejection_of(self, kind: str) -> str:
        """The API server's final rejection of a child of this kind, in its words; empty where it took it."""
        final = [each for each in self.rejected if each.kind == kind and each.status in {400, 403, 422}]
        return final[0].words if final else ""


def named(thing: Mapping[str, Any]) -> str:
    """`Kind name`, as the outcome has it."""
    return f"{thing['kind']} {thing['metadata']['name']}"


class Applier:
    """Applies the children of one service in one pass."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        observed: Observed,
        log_as: dict[str, dict[str, str]],
        named: Collection[str] = (),
    ) -> None:
        """`named` has the claims that the manifest refers to."""
        self._cluster = cluster
        self._plan = plan
        self._observed = observed
        self._log_as = log_as
        self._named = {*named, *([plan.cache.claim] if plan.cache is not None else [])}
        self._waits = downloads.waits(plan, observed)
        self._held = self._waits or bool(plan.rollout.held)
        self._deployment: Any = observed.child(DEPLOYMENTS.kind, plan.name)
        self.outcome = Outcome()

    async def run(self, desired: tuple[Manifest, ...]) -> Outcome:
        """Apply all children; the outcome includes what was rejected or not answered. Raises NotLeadingError."""
        await self._set_number()
        for manifest in desired:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            try:
                await self._bring_about(manifest)
            except UnreachableError as error:
                self._rejected(kind, name, error)
                # Each further child might wait as long: the status first, then again from the start.
                return self.outcome
            except ApiError as error:
                self._rejected(kind, name, error)
        if self._plan.refusal is None:
            await self._remove_unwanted(desired)
        return self.outcome

    async def _set_number(self) -> None:
        """The number of replicas where it falls, or where the rest of the Deployment has to wait.

        An autoscaler that is no longer desired is removed first, or it would scale back what was stopped.
        """
        plan, live, wanted = self._plan, self._deployment, self._plan.scale.replicas
        if wanted is None or live is None or self._is_going(live):
            return
        autoscaler: Any = self._observed.child(AUTOSCALERS.kind, plan.name)
        if autoscaler is not None and self._is_ours(autoscaler):
            await self._remove(autoscaler)
        now = scaling.running(live)
        held_up = plan.refusal is None and self._held and now > 0
        if scaling.is_autoscaled(plan, self._observed) or not (wanted < now or (held_up and wanted > now)):
            return
        try:
            self._deployment = await scaling.set_number(self._cluster, live, wanted, self._log_as)
        except (ApiError, UnreachableError) as error:
            self._rejected(DEPLOYMENTS.kind, plan.name, error)
        else:
            self._changed(self._deployment)

    async def _remove_unwanted(self, desired: tuple[Manifest, ...]) -> None:
        wanted = {(each["kind"], each["metadata"]["name"]) for each in desired}
        live: Any
        for live in self._observed.children:
            kind, name = live["kind"], live["metadata"]["name"]
            if not BY_KIND[kind].optional or (kind, name) in wanted or not self._is_ours(live):
                continue
            if kind != CLAIMS.kind:
                await self._remove(live)
            elif name in self._named:
                continue
            elif live.get("status", {}).get("phase") == "Pending":
                await self._remove(live)
            else:
                self.outcome.kept.append(name)

    async def _bring_about(self, manifest: Manifest) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        live: Any = self._deployment if kind == DEPLOYMENTS.kind else self._observed.child(kind, name)
        if live is None:
            live = await self._cluster.get(BY_KIND[kind], manifest["metadata"]["namespace"], name)
            if live is not None and not self._is_known(live):
                words = f"{kind} {name} exists and belongs to another owner; delete it, or rename the service"
                self.outcome.rejected.append(Rejection(kind, name, "NameTaken", words))
                return
        if live is not None and self._is_going(live):
            own = self._is_ours(live)
            former, reason = ("", "Terminating") if own else (" of a former service of that name", "FormerTerminating")
            words = f"{kind} {name}{former} is still being deleted; it is created again once it is gone"
            self.outcome.rejected.append(Rejection(kind, name, reason, words))
            return
        if kind == JOBS.kind:
            stays = await self._settled_job(manifest, live)
            if stays is manifest:
                return
            if (
                stays is not None
            ):  # its template can't be changed, and what an admission webhook added to it is no drift
                manifest = manifest | {"spec": stays["spec"]}
            live = stays
        if kind == CLAIMS.kind and live is not None and _must_be_recreated(manifest, live):
            await self._remove(live)  # created in the next pass
            return
        if kind == DEPLOYMENTS.kind:
            if live is not None and scaling.running(live) and self._held:
                return  # what serves goes on serving until the new model is there, or the service has its turn
            manifest = await self._with_replicas(self._with_strategy(manifest, live), live)
        if live is not None:
            manifest, held = without_others(manifest, live)
            self.outcome.held += [f"{kind} {name}: {field}" for field in held]
            if not differs(manifest, live):
                return
        answer = await self._cluster.apply(BY_KIND[kind], manifest)
        if live is None:
            self.outcome.created.append(f"{kind} {name}")
            self.outcome.answers.append(answer)
        else:
            self._changed(answer)
        log.info("%s %s %s", "created" if live is None else "changed", kind, name, extra=self._log_as)

    async def _settled_job(self, manifest: Manifest, live: Object | None) -> Object | None:
        """The Job that stays, or the manifest where there is nothing to do: the download is done, is being done, or has
        failed at this very template. None where the Job is to be created.

        A Job for something else is removed, and the next one is created once no pod writes to the volume any more. One
        for the same download is replaced only where its template has changed and no pod of it has come to run.
        """
        if live is None:
            busy = downloads.at_work(self._observed)
            return manifest if busy or not self._waits else None
        wanted, there = manifest["metadata"]["annotations"], live["metadata"].get("annotations", {})
        state = downloads.finished(live)
        if wanted[DOWNLOAD] == there.get(DOWNLOAD):
            if not self._waits:
                return manifest
            runs = any(
                pod.get("status", {}).get("phase") == "Running" for pod in downloads.pods_of(live, self._observed)
            )
            if state != "Complete" and (wanted[TEMPLATE] == there.get(TEMPLATE) or (state is None and runs)):
                return manifest if state == "Failed" or wanted[TEMPLATE] != there.get(TEMPLATE) else live
        await self._remove(live)
        return manifest

    def _with_strategy(self, manifest: Manifest, live: Object | None) -> Manifest:
        """Keep the live strategy where the change has begun: it was chosen by the GPUs that were free then."""
        if live is None or not self._plan.rollout.momentary or self._observed.change is not None:
            return manifest
        if not same_template(manifest, live):
            return manifest
        return manifest | {"spec": manifest["spec"] | {"strategy": live["spec"]["strategy"]}}

    async def _with_replicas(self, manifest: Manifest, live: Object | None) -> Manifest:
        """No replica starts before the model is there; under autoscaling the number is the autoscaler's.

        Handed over without a dip: before we give `replicas` up, another manager of ours holds the number that is.
        """
        plan, spec = self._plan, dict(manifest["spec"])
        if self._waits:
            spec["replicas"] = 0
            return manifest | {"spec": spec}
        if not scaling.is_autoscaled(plan, self._observed):
            return manifest
        if live is None:
            spec.setdefault("replicas", plan.scale.minimum)  # given up in the next pass
            return manifest | {"spec": spec}
        now = scaling.running(live)
        if now and spec.get("replicas", now) != now:
            words = f"spec.replicas is set by the HorizontalPodAutoscaler {self._observed.autoscaler}"
            self.outcome.held.append(f"{DEPLOYMENTS.kind} {plan.name}: {words}")
        spec.pop("replicas", None)
        # A zero of ours is ours to undo, for at zero an autoscaler rests; in one write with the template, or pods of the
        # former one would start. The number is given up in the next pass.
        if not now and (plan.scale.replicas is None or owns(ours(live, HANDOVER), "spec", "replicas")):
            spec["replicas"] = plan.scale.minimum
        elif owns(ours(live), "spec", "replicas"):
            self._changed(await scaling.set_number(self._cluster, live, now, self._log_as))
        return manifest | {"spec": spec}

    async def _remove(self, live: Any) -> None:
        kind, name = live["kind"], live["metadata"]["name"]
        if "deletionTimestamp" in live["metadata"] or f"{kind} {name}" in self.outcome.removed:
            return
        try:
            await self._cluster.delete(BY_KIND[kind], live)
        except (ApiError, UnreachableError) as error:
            self._rejected(kind, name, error)
            return
        self.outcome.removed.append(f"{kind} {name}")
        log.info("removed %s %s", kind, name, extra=self._log_as)

    def _changed(self, answer: Object) -> None:
        self.outcome.changed.append(named(answer))
        self.outcome.answers.append(answer)

    def _rejected(self, kind: str, name: str, error: ApiError | UnreachableError) -> None:
        if isinstance(error, ApiError) and error.status == 409:
            self.outcome.conflict = error
            return
        if isinstance(error, UnreachableError):  # a webhook may be slow; where the server is away, the status fails too
            rejection = Rejection(kind, name, "NoAnswer", str(error))
        else:
            rejection = Rejection(kind, name, error.reason, error.words, error.causes, error.status)
        self.outcome.rejected.append(rejection)

    def _is_ours(self, live: Object) -> bool:
        return self._owner(live) == self._plan.uid

    def _is_known(self, live: Object) -> bool:
        """True if the object is of a service of this name: this one, a former one that is going, or one whose owner and
        labels were lost, such as a claim that was retained, whose managed fields have our own apply."""
        owners = live["metadata"].get("ownerReferences", ())
        if any(owner.get("kind") == KIND and owner["name"] == self._plan.name for owner in owners):
            return True
        return not owners and bool(ours(live))

    def _is_going(self, live: Object) -> bool:
        return self._owner(live) not in {None, self._plan.uid} or "deletionTimestamp" in live["metadata"]

    @staticmethod
    def _owner(live: Object) -> str | None:
        """The UID of its controller."""
        owners = live["metadata"].get("ownerReferences", ())
        return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def _must_be_recreated(manifest: Manifest, live: Object) -> bool:
    """True if a claim without a volume is to be another kind of one: neither can be changed, and nothing is lost."""
    if live.get("status", {}).get("phase") != "Pending":
        return False
    wanted, there = manifest["spec"], live["spec"]
    storage_class = wanted.get("storageClassName", there.get("storageClassName"))
    return bool(
        list(wanted["accessModes"]) != list(there.get("accessModes", ()))
        or storage_class != there.get("storageClassName")
    )
