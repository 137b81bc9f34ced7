"""Decides whether a model has been downloaded: by the status's own memory of it, or by the Job. Pure.

A Job is no memory: a TTL or a cleaner may remove it at any time. What it did is kept in the status, together with the
claim's UID, so that a claim that was made again counts as empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo_operator.api.conditions import is_true
from octavo_operator.api.labels import COMPONENT, PRELOAD
from octavo_operator.api.names import preload_job
from octavo_operator.api.observed import Download, Observed
from octavo_operator.api.resources import JOBS
from octavo_operator.children.preload_job import DOWNLOAD, download_of
from octavo_operator.planner import Plan

Object = Mapping[str, Any]


def remembered(status: Mapping[str, Any] | None) -> Download | None:
    """The download that a status records."""
    cache = (status or {}).get("cache")
    if not isinstance(cache, Mapping) or not cache.get("download"):
        return None
    return Download(
        digest=str(cache["download"]),
        claim=str(cache.get("claim", "")),
        claim_uid=str(cache.get("claimUID", "")),
        commit=cache.get("commit"),
        size=cache.get("bytes"),
    )


def finished(job: Object) -> str | None:
    """Complete or Failed; None while it goes on."""
    return next((kind for kind in ("Complete", "Failed") if is_true(job, kind)), None)


def is_suspended(job: Object) -> bool:
    """True if a queue that has not admitted it yet, or a person, holds it back."""
    return job.get("spec", {}).get("suspend") is True and finished(job) is None


def job_of(plan: Plan, observed: Observed) -> Object | None:
    """The Job of this download; not one that was made for another model."""
    job = observed.child(JOBS.kind, preload_job(plan.name))
    if job is None or job["metadata"].get("annotations", {}).get(DOWNLOAD) != _digest(plan):
        return None
    return job


def done(plan: Plan, observed: Observed) -> Download | None:
    """The complete download on the plan's claim; None where the plan has no such claim, or the download is not finished."""
    if plan.cache is None or not plan.cache.preload:
        return None
    uid, digest = _uid(plan, observed), _digest(plan)
    before = observed.downloaded
    if (
        uid
        and before is not None
        and (before.digest, before.claim, before.claim_uid) == (digest, plan.cache.claim, uid)
    ):
        return before
    job = job_of(plan, observed)
    if job is None or not is_good(job, observed.claim(plan.cache.claim)):
        return None
    made = Download(digest, plan.cache.claim, uid)
    for pod in pods_of(job, observed):
        if (report := _report(pod)) is not None:
            made = replace(made, commit=report.get("commit"), size=report.get("bytes"))
    return made


def is_good(job: Object, claim: Object | None) -> bool:
    """True if the Job is complete, onto the claim that exists now."""
    if finished(job) != "Complete":
        return False
    ended = job.get("status", {}).get("completionTime")
    return claim is None or ended is None or str(claim["metadata"]["creationTimestamp"]) <= str(ended)


def waits(plan: Plan, observed: Observed) -> bool:
    """The download comes first: no replica starts before its model is there."""
    return plan.cache is not None and plan.cache.preload and done(plan, observed) is None


def pods_of(job: Object, observed: Observed) -> list[Object]:
    """The Job's pods, oldest first."""
    uid = job["metadata"].get("uid")
    return [
        pod
        for pod in observed.pods
        if pod["metadata"]["labels"].get(COMPONENT) == PRELOAD
        and any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", ()))
    ]


def at_work(observed: Observed) -> list[Object]:
    """Pods of this download or of a former one that may still write, also where their Job was deleted without them."""
    return [pod for pod in observed.pods if pod["metadata"]["labels"].get(COMPONENT) == PRELOAD and is_at_work(pod)]


def is_at_work(pod: Object) -> bool:
    """True if a pod may still write to the volume."""
    return pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}


def _uid(plan: Plan, observed: Observed) -> str:
    claim = None if plan.cache is None else observed.claim(plan.cache.claim)
    return "" if claim is None else str(claim["metadata"].get("uid", ""))


def _digest(plan: Plan) -> str:
    assert plan.cache is not None
    return download_of(plan, plan.cache)


def _report(pod: Object) -> Mapping[str, Any] | None:
    """The report in the fetch's last message: commit and size."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated") or {}
        if ended.get("exitCode") == 0:
            try:
                report = json.loads(str(ended.get("message") or ""))
            except ValueError:
                return None
            return report if isinstance(report, dict) else None
    return None
