"""The model's download in the status: the condition ModelCached, and what is remembered of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo_operator.api.conditions import State
from octavo_operator.api.names import preload_job
from octavo_operator.api.observed import Download, Observed
from octavo_operator.api.reasons import StorageReason
from octavo_operator.api.status import CacheStatus
from octavo_operator.planner import Plan
from octavo_operator.reconcile import downloads
from octavo_operator.reconcile.applying import Rejection
from octavo_operator.reconcile.diagnosis import claims, rejections
from octavo_operator.reconcile.diagnosis.pods import seen_trouble
from octavo_operator.reconcile.diagnosis.redaction import redacted
from octavo_operator.reconcile.diagnosis.trouble import Trouble


def model_cached(plan: Plan, observed: Observed, fetched: Download | None) -> State:
    """The condition ModelCached: status, reason, message."""
    cache = plan.cache
    if plan.refusal is not None:
        return ("Unknown", plan.refusal.reason, "nothing is made of a spec that is refused")
    if cache is None:
        return ("False", StorageReason.NO_CACHE, "no volume keeps the model; cache: {} gives it one")
    if (lost := claims.trouble_of(cache, observed)) is not None:
        return ("False", lost.reason, lost.message)
    if not cache.preload:
        return ("Unknown", StorageReason.NOT_PRELOADED, "replicas download what is missing when they start")
    if fetched is not None:
        return ("True", StorageReason.PRELOADED, f"the model lies whole on {cache.claim}")
    waits = download_trouble(plan, observed)
    return ("False", waits.reason, waits.message)


def download_trouble(plan: Plan, observed: Observed) -> Trouble:
    """The reason why a model that is to be downloaded is not there yet."""
    job, name = downloads.job_of(plan, observed), preload_job(plan.name)
    pods = downloads.at_work(observed) if job is None else downloads.pods_of(job, observed)
    if job is not None and downloads.finished(job) == "Failed":
        last_words = next((text for pod in reversed(pods) if (text := _last_words(pod))), "see kubectl logs of its pod")
        retry = f"fix the cause, then kubectl delete job {name} to try again"
        return Trouble(StorageReason.DOWNLOAD_FAILED, f"the download failed: {last_words}; {retry}", stuck=True, rank=0)
    if job is not None and downloads.is_suspended(job):
        text = (
            f"the Job {name} is suspended, so that nothing is downloaded: see the queue (Kueue) or person that did it"
        )
        return Trouble(StorageReason.DOWNLOAD_SUSPENDED, text, stuck=False, rank=0)
    if job is not None and not pods and observed.job_message:
        refused = rejections.trouble_of(
            Rejection("Pod", f"of Job {name}", "FailedCreate", observed.job_message, (), 403)
        )
        return replace(refused, message=f"the download can't run: {refused.message}")
    troubles = [t for pod in pods if (t := seen_trouble(pod, plan, observed)) is not None and t.rank < 8]
    if troubles:
        worst = min(troubles, key=lambda trouble: trouble.rank)
        return replace(worst, message=f"the download can't run: {worst.message}", rank=0)
    if job is None and pods:
        left = pods[0]["metadata"]["name"]
        text = (
            f"the pod {left} of a Job that was deleted is still there, and may write to the volume: once it has ended the "
            f"download goes on; kubectl delete pod -n {plan.namespace} {left} ends it"
        )
        return Trouble(StorageReason.DOWNLOADING, text, stuck=False, rank=0)
    claim = "its volume" if plan.cache is None else plan.cache.claim
    text = f"the model is being downloaded onto {claim}; replicas start then"
    return Trouble(StorageReason.DOWNLOADING, text, stuck=False, rank=0)


def _last_words(pod: Mapping[str, Any]) -> str:
    for container in pod.get("status", {}).get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if ended.get("exitCode"):
            return redacted(" ".join(str(ended.get("message") or f"exit code {ended['exitCode']}").split()))[-400:]
    return ""


def memory_of(fetched: Download | None) -> CacheStatus | None:
    """The status's memory of a download; empty without its claim's UID, which distinguishes it from another."""
    if fetched is None or not fetched.claim_uid:
        return None
    return CacheStatus.model_validate(
        {
            "claim": fetched.claim,
            "claimUID": fetched.claim_uid,
            "download": fetched.digest,
            "commit": fetched.commit,
            "bytes": fetched.size,
        }
    )
