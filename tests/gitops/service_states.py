"""LLMServices in every state that the operator reports, their status by the operator's own planner and `summarize`.

The operator's observations alone are pretended: the children as it renders them, with the status that Kubernetes'
controllers and kubelets give such objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo_testing.planner_cases import MISTRAL_7B

from octavo_models import from_hf_config
from octavo_operator.api.manifest import parse
from octavo_operator.api.observed import Nodes, Observed
from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.children import render
from octavo_operator.errors import ManifestError
from octavo_operator.planner import plan
from octavo_operator.reconcile import summary
from octavo_operator.reconcile.applying import Outcome, Rejection
from octavo_operator.settings import Settings

Object = dict[str, Any]
SUSPENDED = "Suspended"


@dataclass(frozen=True, slots=True)
class Seen:
    """The operator's observations: replicas by the Deployment's status, what their pods do, and what was rejected."""

    desired: int = 1
    existing: int | None = None
    ready: int = 0
    updated: int | None = None
    deployed: bool = True
    pod: Object | None = None  # status of one engine pod
    job: Object | None = None  # status of the download
    autoscaler: Object | None = None  # status
    rejected: tuple[Rejection, ...] = ()
    nodes: Nodes | None = None


def lives(spec: Object, seen: Seen, generation: int = 2, **metadata: Any) -> Object:
    """The object as the API server would have it once the operator has said what it sees."""
    metadata = {"name": "s", "namespace": "models", "uid": "u-1", "generation": generation, **metadata}
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    try:
        service = parse(body)
    except ManifestError as error:
        said = summary.invalid(body, _observed(body, (), seen), error)
    else:
        made = plan(service, Observed(from_hf_config(MISTRAL_7B)), Settings())
        observed = _observed(body, render(made), seen)
        said = summary.summarize(service, made, observed, Outcome(rejected=list(seen.rejected)))
    status = said.status.model_dump(by_alias=True, exclude_none=True)
    status["conditions"] = summary.conditions_of(said.conditions, generation, {}, "2026-01-01T00:00:00Z")
    return body | {"status": status}


def _observed(body: Object, children: tuple[Object, ...], seen: Seen) -> Observed:
    existing = seen.desired if seen.existing is None else seen.existing
    given = {
        "Deployment": {
            "observedGeneration": 1,
            "replicas": existing,
            "readyReplicas": seen.ready,
            "updatedReplicas": existing if seen.updated is None else seen.updated,
        },
        "Job": seen.job,
        "HorizontalPodAutoscaler": seen.autoscaler,
    }
    live = []
    for child in children:
        if child["kind"] == "Deployment" and not seen.deployed:
            continue
        spec = {**child["spec"], "replicas": seen.desired} if child["kind"] == "Deployment" else child["spec"]
        metadata = {**child["metadata"], "generation": 1}
        live.append({**child, "metadata": metadata, "spec": spec, "status": given.get(child["kind"]) or {}})
    labels = {"octavo.dev/service": body["metadata"]["name"], "app.kubernetes.io/component": "engine"}
    pods = (
        ()
        if seen.pod is None
        else ({"metadata": {"name": "s-0", "uid": "p-0", "labels": labels}, "spec": {}, "status": seen.pod},)
    )
    return Observed(children=tuple(live), pods=pods, nodes=seen.nodes)


def _container(state: Object, **more: Any) -> Object:
    return {"phase": "Running", "containerStatuses": [{"name": "engine", "image": "i", "state": state, **more}]}


def _unscheduled(message: str) -> Object:
    return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


LOADING = _container({"running": {}})
REFUSES = _container(
    {"waiting": {"reason": "CrashLoopBackOff"}},
    restartCount=3,
    lastState={"terminated": {"exitCode": 2, "reason": "Error", "message": "--max-num-seqs: 0 is too small"}},
)
NO_IMAGE = _container({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
KILLED = _container({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, restartCount=1, lastState={})
QUOTA = Rejection("PersistentVolumeClaim", "s-cache", "Forbidden", "exceeded quota: q", status=403)

BASE: Object = {"model": {"uri": "hf://org/name"}, "accelerator": {"vendor": "cpu"}, "engine": {"maxModelLen": 512}}
GPUS: Object = {"model": {"uri": "hf://org/name"}, "accelerator": {"products": ["NVIDIA-A100-SXM4-80GB"]}}
CACHED = BASE | {"cache": {"size": "20Gi", "preload": True}}
SCALED = BASE | {"autoscaling": {"minReplicas": 1, "maxReplicas": 4}}
HPA_LOOKS = {"conditions": [{"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound", "message": ""}]}
HPA_BLIND = {
    "conditions": [{"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "m"}]
}


@dataclass(frozen=True, slots=True)
class Case:
    """A state, with what Argo CD and Flux should make of it, and words that a person should read."""

    spec: Object
    seen: Seen
    health: str
    words: str


CASES = {
    "made": Case(BASE, Seen(deployed=False), "Progressing", "being made"),
    "loading": Case(BASE, Seen(pod=LOADING), "Progressing", "being loaded"),
    "downloading": Case(CACHED, Seen(desired=0, job={}), "Progressing", "being downloaded"),
    "serving": Case(BASE, Seen(ready=1), "Healthy", "1 of 1 replicas answer"),
    "serving, autoscaled": Case(SCALED, Seen(desired=3, ready=3, autoscaler=HPA_LOOKS), "Healthy", "3 of 3"),
    "serving, the autoscaler blind": Case(SCALED, Seen(desired=1, ready=1, autoscaler=HPA_BLIND), "Healthy", "1 of 1"),
    "scaling out": Case(SCALED, Seen(desired=3, ready=1, pod=LOADING), "Progressing", "being loaded"),
    "scaling in": Case(BASE, Seen(existing=2, ready=2), "Progressing", "a change reaches the replicas"),
    "rolling out, serving": Case(
        BASE | {"replicas": 2}, Seen(desired=2, existing=3, ready=2, updated=1), "Progressing", "a change reaches"
    ),
    "rolling out, not serving": Case(BASE, Seen(existing=0), "Progressing", "being started"),
    "waits for a GPU": Case(
        GPUS, Seen(pod=_unscheduled("0/1"), nodes=Nodes(free=0, largest=4)), "Progressing", "waits for a free GPU"
    ),
    "no such GPU": Case(GPUS, Seen(pod=_unscheduled("0/1"), nodes=Nodes(0, 0)), "Progressing", "no node has"),
    "engine refuses": Case(BASE, Seen(pod=REFUSES), "Degraded", "--max-num-seqs: 0 is too small"),
    "out of memory": Case(BASE, Seen(pod=KILLED), "Degraded", "raise resources.limits.memory"),
    "no image": Case(BASE, Seen(pod=NO_IMAGE), "Degraded", "can't be pulled"),
    "serving, a change stuck": Case(
        BASE, Seen(existing=2, ready=1, updated=1, pod=NO_IMAGE), "Degraded", "can't be pulled"
    ),
    "quota": Case(CACHED, Seen(rejected=(QUOTA,)), "Degraded", "raise the ResourceQuota"),
    "does not fit": Case(
        GPUS | {"engine": {"tensorParallelSize": 3}}, Seen(deployed=False), "Degraded", "tensorParallelSize"
    ),
    "invalid": Case(BASE | {"repilcas": 2}, Seen(deployed=False), "Degraded", "spec.repilcas"),
    "suspended": Case(BASE | {"suspend": True}, Seen(desired=0), SUSPENDED, "suspend: false starts it"),
    "suspended, autoscaled": Case(SCALED | {"suspend": True}, Seen(desired=0), SUSPENDED, "suspend: false"),
    "suspended, replicas end": Case(
        BASE | {"suspend": True}, Seen(desired=0, existing=1), "Progressing", "replicas end"
    ),
    "scaled to zero": Case(BASE | {"replicas": 0}, Seen(desired=0), SUSPENDED, "replicas: 1 starts it"),
}

KSTATUS = {"Progressing": "InProgress", "Healthy": "Current", "Degraded": "Failed", SUSPENDED: "InProgress"}
"""kstatus has no word for what rests as desired, and reads `Ready=False` as not there yet; healthCheckExprs help."""


def object_of(case: Case) -> Object:
    return lives(case.spec, case.seen)


def edited(made: Object) -> Object:
    """A service whose spec has been changed since the operator looked last."""
    return made | {"metadata": made["metadata"] | {"generation": made["metadata"]["generation"] + 1}}


def unseen(made: Object) -> Object:
    """New, as the CRD's default leaves it."""
    return made | {"status": {"observedGeneration": -1}}


def with_others(made: Object) -> Object:
    """Conditions of another author, before and behind the operator's."""
    foreign = {"type": "Audited", "status": "True", "reason": "Stalled", "message": "by another author"}
    conditions = [foreign, *made["status"]["conditions"], foreign | {"type": "Progressing2"}]
    return made | {"status": made["status"] | {"conditions": conditions}}
