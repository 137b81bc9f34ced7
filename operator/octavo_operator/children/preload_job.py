"""The Job that downloads the model once, onto the claim, before the first replica starts.

Two annotations state what it was made for, because a Job's template can't be changed: which download it is
(`octavo.dev/download`), and the whole template (`octavo.dev/template`). A Job is good as long as its download is the
same; another template matters only to one whose pod does not run.

Its pod is a replica's with another container: what a cluster demands of a replica (limits, labels, a CA's volume,
tolerations, a security context) it demands of the download, too.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from octavo_operator.api.labels import PRELOAD, labels
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import GROUP
from octavo_operator.children.child import Manifest, child
from octavo_operator.children.pod import CONTAINER as ENGINE_CONTAINER
from octavo_operator.children.pod import RESTRICTED, cache_volume, pull_policy, template, variables
from octavo_operator.planner.arguments import CACHE_PATH, KEYS_PATH, TEMPLATE_PATH
from octavo_operator.planner.plan import CachePlan, Plan
from octavo_operator.runtimes import RUNTIMES

DOWNLOAD = f"{GROUP}/download"
TEMPLATE = f"{GROUP}/template"
CONTAINER = "preload"
COMMAND = ("python3", "-m", "octavo_engine.fetch")
TRIES = 6
REPORT = "/dev/termination-log"  # the kubelet keeps it as the container's last message
WRONG = 2  # the engine's exit status for what trying again does not fix
NEEDS = {"cpu": "250m", "memory": "1Gi"}
MOUNTS = {"tmp": "/tmp", "cache": CACHE_PATH}  # noqa: S108 — a volume of the pod's own
ONLY_A_REPLICAS = {"/dev/shm", *(path.rpartition("/")[0] for path in (TEMPLATE_PATH, KEYS_PATH))}  # noqa: S108 — a volume of the pod's own
# A mesh's sidecar would never end, and with it the Job; one that does not hold traffic back at the start is not needed.
ALONE_LABELS = {"sidecar.istio.io/inject": "false"}
# To move a download so that a node can be saved means to begin it again.
ALONE_ANNOTATIONS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    "linkerd.io/inject": "disabled",
}
HOSTNAME = "kubernetes.io/hostname"
# Fields of a replica's pod spec: its nodes, its user, its network. Sidecars are left out, because they never end.
FROM_THE_REPLICAS = (
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostNetwork",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)


def render(plan: Plan, name: str) -> Manifest:
    """The Job; the containers that it runs fetch into the plan's cache."""
    cache = plan.cache
    assert cache is not None
    pod = _template(plan, cache)
    spec = {
        "backoffLimit": TRIES,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [WRONG]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            ]
        },
        "template": pod,
    }
    result = child(plan, "batch/v1", "Job", name, spec, component=PRELOAD)
    result["metadata"]["annotations"] = {DOWNLOAD: download_of(plan, cache), TEMPLATE: _digest(pod)}
    return result


def download_of(plan: Plan, cache: CachePlan) -> str:
    """Digest that identifies a download: its files, and the volume that they are for."""
    return _digest([list(_arguments(plan)), cache.claim, plan.uid if cache.create else None])


def _template(plan: Plan, cache: CachePlan) -> Manifest:
    given = _mapping(template(plan).get("spec"))
    metadata = _mapping(plan.pod.template.get("metadata"))  # the manifest's own: a replica's labels are for replicas
    own = {"name": ENGINE_CONTAINER, "env": variables(plan.engine.env)}  # where podTemplate leaves no engine
    engine = next((each for each in _mappings(given.get("containers")) if each.get("name") == ENGINE_CONTAINER), own)
    mounts = {path: {"name": name, "mountPath": path} for name, path in MOUNTS.items()}
    for mount in _mappings(engine.get("volumeMounts")):
        if mount.get("mountPath") not in ONLY_A_REPLICAS:
            mounts[str(mount.get("mountPath"))] = mount
    volumes = {"tmp": {"name": "tmp", "emptyDir": {}}, "cache": cache_volume(plan)}
    for volume in _mappings(given.get("volumes")):
        if volume.get("name") in {mount.get("name") for mount in mounts.values()}:
            volumes[str(volume.get("name"))] = volume
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **{field: given[field] for field in FROM_THE_REPLICAS if field in given},
        "restartPolicy": "Never",
        "containers": [_container(plan, engine, list(mounts.values()))],
        "volumes": list(volumes.values()),
    }
    if plan.hardware.gpus and (affinity := _near_gpus(plan, cache, spec.get("affinity"))):
        spec["affinity"] = affinity
    annotations = {**ALONE_ANNOTATIONS, **_mapping(metadata.get("annotations"))}
    described = {**ALONE_LABELS, **_mapping(metadata.get("labels")), **labels(plan.name, PRELOAD)}
    return {"metadata": {"labels": described, "annotations": annotations}, "spec": spec}


def _container(plan: Plan, engine: Manifest, mounts: list[Manifest]) -> Manifest:
    """The engine's container with another command: its environment without the API key, its limits without GPUs."""
    runtime = RUNTIMES[plan.engine.runtime]
    names = runtime.variables
    not_its = {names.api_key, names.api_key_file, names.hub_offline}
    result: Manifest = {
        "name": CONTAINER,
        "image": plan.preload_image,
        **(pull_policy(plan) if runtime.runs_download else {}),
        "command": list(COMMAND),
        "args": [*_arguments(plan), "--report", REPORT],
        "env": [each for each in _mappings(engine.get("env")) if each.get("name") not in not_its],
        "resources": _resources(engine),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": engine.get("securityContext", dict(RESTRICTED)),
        "volumeMounts": mounts,
    }
    if "envFrom" in engine:
        result["envFrom"] = engine["envFrom"]
    return result


def _resources(engine: Manifest) -> Manifest:
    """Small requests; the limits are the engine's, because a quota that counts limits requires them."""
    given = _mapping(_mapping(engine.get("resources")).get("limits"))
    limits = {name: amount for name, amount in given.items() if name in {"cpu", "memory", "ephemeral-storage"}}
    requests = {name: _least(amount, limits.get(name)) for name, amount in NEEDS.items()}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _least(amount: str, limit: Any) -> str:
    try:
        return amount if limit is None or Quantity(amount).value <= Quantity(str(limit)).value else str(limit)
    except ValueError:
        return amount  # what is no quantity the API server refuses in its own words


def _near_gpus(plan: Plan, cache: CachePlan, given: Any) -> Manifest | None:
    """Prefer the replicas' nodes, because a volume is made at its first pod: on the node itself, or in its zone."""
    affinity = _mapping(given)
    nodes = _mapping(affinity.get("nodeAffinity"))
    if cache.nodes:
        own = {"key": HOSTNAME, "operator": "In", "values": list(cache.nodes)}
        required = _mapping(nodes.get("requiredDuringSchedulingIgnoredDuringExecution"))
        terms = _mappings(required.get("nodeSelectorTerms")) or [{}]
        both = [{**term, "matchExpressions": [*_mappings(term.get("matchExpressions")), own]} for term in terms]
        return affinity | {
            "nodeAffinity": nodes | {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": both}}
        }
    if plan.hardware.products:
        return None  # the replicas' own selector names them
    term = {"matchExpressions": [{"key": "nvidia.com/gpu.present", "operator": "Exists"}]}
    rather = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}]}
    return affinity | {"nodeAffinity": rather | nodes}


def _arguments(plan: Plan) -> tuple[str, ...]:
    """The engine's arguments that select files."""
    words = ["--model", plan.engine.model]
    for flag in ("--revision", "--file"):
        if flag in plan.engine.arguments:
            words += [flag, plan.engine.arguments[plan.engine.arguments.index(flag) + 1]]
    return tuple(words)


def _mapping(value: Any) -> Manifest:
    """`podTemplate` may hold anything; what has the wrong shape the API server refuses in its own words."""
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[Manifest]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
