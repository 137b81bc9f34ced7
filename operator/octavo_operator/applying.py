"""Makes the children what the plan says, and writes only where they are not.

Knows what differs between kinds: a Job's template can't be changed, a Deployment's replicas may be the autoscaler's,
an optional child goes when it is no longer wanted. One child that is refused does not hold up the others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.children import Manifest
from octavo_operator.children.preload_job import DOWNLOAD, TEMPLATE
from octavo_operator.cluster import Cluster, Object
from octavo_operator.drift import differs, without_others
from octavo_operator.errors import ApiError, UnreachableError
from octavo_operator.observed import Observed
from octavo_operator.ownership import HANDOVER, others, ours, owns
from octavo_operator.planner import Plan
from octavo_operator.resources import BY_KIND, JOBS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """A child that could not be made what it should be."""

    kind: str
    name: str
    reason: str  # Kubernetes' word, or ours: NameTaken, Terminating, NoAnswer
    words: str
    causes: tuple[str, ...] = ()
    status: int = 0


@dataclass
class Outcome:
    """What came of it."""

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    held: list[str] = field(default_factory=list)  # fields that another manager holds

    @property
    def wrote(self) -> bool:
        return bool(self.created or self.changed or self.removed)


class Applier:
    """For one service and one pass."""

    def __init__(self, cluster: Cluster, plan: Plan, observed: Observed, log_as: dict[str, dict[str, str]]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._observed = observed
        self._log_as = log_as
        self.outcome = Outcome()

    async def run(self, desired: tuple[Manifest, ...]) -> Outcome:
        """What the API server refuses, or does not answer in time, is part of the outcome.

        Raises NotLeadingError, and ApiError where somebody was quicker (409).
        """
        for manifest in desired:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            try:
                await self._bring_about(manifest)
            except (ApiError, UnreachableError) as error:
                self._refused(kind, name, error)
        wanted = {(each["kind"], each["metadata"]["name"]) for each in desired}
        for live in self._observed.children:
            resource = BY_KIND[live["kind"]]
            if resource.optional and (live["kind"], live["metadata"]["name"]) not in wanted and self._is_ours(live):
                await self._remove(live)
        return self.outcome

    async def _bring_about(self, manifest: Manifest) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        live: Any = self._observed.child(kind, name)
        if live is None:
            live = await self._cluster.get(BY_KIND[kind], manifest["metadata"]["namespace"], name)
            if live is not None and not self._is_ours(live) and not self._is_unowned_of_ours(live):
                words = f"{kind} {name} exists and belongs to somebody else; delete it, or name the service otherwise"
                self.outcome.refused.append(Refused(kind, name, "NameTaken", words))
                return
        if live is not None and self._is_going(live):
            words = f"{kind} {name} of a former service of that name is still being removed"
            self.outcome.refused.append(Refused(kind, name, "Terminating", words))
            return
        if kind == "Job" and live is not None:
            live = await self._settled_job(manifest, live)
            if live is manifest:
                return
        if kind == "Deployment":
            if live is not None and live["spec"].get("replicas") and waits_for_model(self._plan, self._observed):
                return  # what serves goes on serving until the new model is there
            manifest = await self._with_replicas(manifest, live)
        if live is not None:
            manifest, held = without_others(manifest, live)
            self.outcome.held += [f"{kind} {name}: {field}" for field in held]
            if not differs(manifest, live):
                return
        await self._cluster.apply(BY_KIND[kind], manifest)
        (self.outcome.created if live is None else self.outcome.changed).append(f"{kind} {name}")
        log.info("%s %s %s", "created" if live is None else "changed", kind, name, extra=self._log_as)

    async def _settled_job(self, manifest: Manifest, live: Object) -> Object | None:
        """The manifest itself where the live Job does: it has done this download, or failed at this very template.

        One that was made for something else is removed; None then, for the next to be made.
        """
        wished, there = manifest["metadata"]["annotations"], live["metadata"].get("annotations", {})
        state = finished(live)
        if wished[DOWNLOAD] == there.get(DOWNLOAD) and state == "Complete":
            return manifest
        if wished[TEMPLATE] == there.get(TEMPLATE):
            return manifest if state == "Failed" else live
        await self._remove(live)
        return None

    async def _with_replicas(self, manifest: Manifest, live: Object | None) -> Manifest:
        """No replica starts before the model is there; under autoscaling the number is the autoscaler's.

        Handed over without a dip: before we give `replicas` up, another manager of ours holds the number that is.
        """
        plan, spec = self._plan, dict(manifest["spec"])
        running = int(live["spec"].get("replicas") or 0) if live is not None else 0
        if not running and waits_for_model(plan, self._observed):
            spec["replicas"] = 0
            return manifest | {"spec": spec}
        if "replicas" in spec or plan.scale.replicas is not None:
            return manifest
        if live is None:
            spec["replicas"] = plan.scale.minimum  # given up in the next pass
            return manifest | {"spec": spec}
        if owns(ours(live), "spec", "replicas") and not any(
            owns(fields, "spec", "replicas") for _, fields in others(live)
        ):
            metadata = live["metadata"]
            body = {
                "apiVersion": manifest["apiVersion"],
                "kind": manifest["kind"],
                "metadata": {
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "resourceVersion": metadata["resourceVersion"],  # not a number that has changed meanwhile
                },
                "spec": {"replicas": running or plan.scale.minimum},
            }
            await self._cluster.apply(BY_KIND["Deployment"], body, manager=HANDOVER)
            log.info("handed replicas over to the autoscaler", extra=self._log_as)
        return manifest

    async def _remove(self, live: Any) -> None:
        kind, name = live["kind"], live["metadata"]["name"]
        if "deletionTimestamp" in live["metadata"]:
            return
        try:
            await self._cluster.delete(BY_KIND[kind], live)
        except (ApiError, UnreachableError) as error:
            self._refused(kind, name, error)
            return
        self.outcome.removed.append(f"{kind} {name}")
        log.info("removed %s %s", kind, name, extra=self._log_as)

    def _refused(self, kind: str, name: str, error: ApiError | UnreachableError) -> None:
        if isinstance(error, ApiError) and error.status == 409:  # somebody was quicker: look again
            raise error
        if isinstance(error, UnreachableError):  # a webhook may be slow; where the server is away, the status fails too
            refused = Refused(kind, name, "NoAnswer", str(error))
        else:
            refused = Refused(kind, name, error.reason, error.words, error.causes, error.status)
        self.outcome.refused.append(refused)

    def _is_ours(self, live: Any) -> bool:
        return any(
            owner["uid"] == self._plan.uid and owner.get("controller")
            for owner in live["metadata"].get("ownerReferences", ())
        )

    def _is_unowned_of_ours(self, live: Any) -> bool:
        """A claim that was retained, its labels lost: our own apply stands in its managed fields."""
        return not live["metadata"].get("ownerReferences") and bool(ours(live))

    def _is_going(self, live: Any) -> bool:
        former = any(
            owner.get("controller") and owner["uid"] != self._plan.uid
            for owner in live["metadata"].get("ownerReferences", ())
        )
        return former or "deletionTimestamp" in live["metadata"]


def finished(job: Any) -> str | None:
    """Complete or Failed; None while it goes on."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
            return str(condition["type"])
    return None


def waits_for_model(plan: Plan, observed: Observed) -> bool:
    """The download comes first."""
    if plan.cache is None or not plan.cache.preload:
        return False
    job = observed.child(JOBS.kind, f"{plan.name}-preload")
    return job is None or finished(job) != "Complete"
