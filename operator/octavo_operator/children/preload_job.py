"""The Job that downloads the model once, onto the claim, before the first replica starts.

Two annotations tell what it was made for, because a Job's template can't be changed: which download it is
(`octavo.dev/download`), and the whole template (`octavo.dev/template`). A finished one is good as long as the download
is the same; an unfinished one with another template is to be replaced.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from octavo_operator.api.v1alpha1 import GROUP
from octavo_operator.children.ownership import Manifest, child
from octavo_operator.children.pod import RESTRICTED, cache_volume, pull_policy, pull_secrets, template, variables
from octavo_operator.labels import PRELOAD, labels
from octavo_operator.planner.arguments import CACHE_PATH, OFFLINE
from octavo_operator.planner.plan import CachePlan, Plan
from octavo_operator.planner.runtimes import RUNTIMES

DOWNLOAD = f"{GROUP}/download"
TEMPLATE = f"{GROUP}/template"
CONTAINER = "preload"
COMMAND = ("python3", "-m", "octavo_engine.fetch")
TRIES = 6
REPORT = "/dev/termination-log"  # the kubelet keeps it as the container's last message
WRONG = 2  # the engine's exit status for what trying again does not mend
# What decides where a pod may run, and as whom: so that the volume lands where the replicas can be.
FROM_THE_REPLICAS = (
    "affinity",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)


def render(plan: Plan, cache: CachePlan) -> Manifest:
    """The Job, named for the service."""
    pod = _template(plan)
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
    result = child(plan, "batch/v1", "Job", f"{plan.name}-preload", spec, component=PRELOAD)
    download = [list(_arguments(plan)), cache.claim, plan.uid if cache.create else None]
    result["metadata"]["annotations"] = {DOWNLOAD: _digest(download), TEMPLATE: _digest(pod)}
    return result


def _template(plan: Plan) -> Manifest:
    given = template(plan).get("spec")
    replica = given if isinstance(given, dict) else {}
    not_its = {RUNTIMES[plan.engine.runtime].api_key, OFFLINE}
    spec: Manifest = {
        **{field: replica[field] for field in FROM_THE_REPLICAS if field in replica},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        **pull_secrets(plan),
        "containers": [
            {
                "name": CONTAINER,
                "image": plan.preload_image,
                **(pull_policy(plan) if plan.engine.runtime == "octavo" else {}),
                "command": list(COMMAND),
                "args": [*_arguments(plan), "--report", REPORT],
                "env": variables(tuple(variable for variable in plan.engine.env if variable.name not in not_its)),
                "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}},
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": dict(RESTRICTED),
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 — a volume of the pod's own
                    {"name": "cache", "mountPath": CACHE_PATH},
                ],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, cache_volume(plan)],
    }
    if plan.hardware.cards and not plan.hardware.products:
        spec["affinity"] = _near_cards(spec.get("affinity"))
    return {"metadata": {"labels": labels(plan.name, PRELOAD)}, "spec": spec}


def _near_cards(given: Any) -> Manifest:
    """A volume is made in the zone of its first pod: rather one with cards, where their nodes are labelled."""
    term = {"matchExpressions": [{"key": "nvidia.com/gpu.present", "operator": "Exists"}]}
    wish = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}]}
    affinity = given if isinstance(given, dict) else {}
    nodes = affinity.get("nodeAffinity")
    return affinity | {"nodeAffinity": wish | (nodes if isinstance(nodes, dict) else {})}


def _arguments(plan: Plan) -> tuple[str, ...]:
    """Of the engine's own, those that say which files."""
    words = ["--model", plan.engine.model]
    for flag in ("--revision", "--file"):
        if flag in plan.engine.arguments:
            words += [flag, plan.engine.arguments[plan.engine.arguments.index(flag) + 1]]
    return tuple(words)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
