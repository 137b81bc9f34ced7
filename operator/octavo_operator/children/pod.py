"""The pod of a replica: its engine, its volumes, and where it may run. The manifest's own template is merged last."""

from __future__ import annotations

from typing import Any

from octavo_operator.api.labels import SERVICE, labels, selector
from octavo_operator.children.child import Manifest
from octavo_operator.children.merge import merged
from octavo_operator.planner.arguments import CACHE_PATH, CLAIM_PATH, KEYS_PATH, TEMPLATE_PATH
from octavo_operator.planner.plan import EngineProcess, Env, Plan, Probe, Requirement, Term

CONTAINER = "engine"
PORT_NAME = "http"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
USER = 65532  # as distroless images have it: any that is not root will do
LOCAL_VOLUMES = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def template(plan: Plan) -> Manifest:
    """The Deployment's pod template, with the manifest's merged over it."""
    own = {
        "metadata": {
            "labels": labels(plan.name),
            "annotations": {
                "kubectl.kubernetes.io/default-container": CONTAINER,
                # Volumes of the pod's own hold nothing that is missed: they are no reason to keep a node that is empty else.
                LOCAL_VOLUMES: ",".join(_on_disk(plan)),
            },
        },
        "spec": {
            **placement(plan),
            "automountServiceAccountToken": False,
            # A Service called vllm would set VLLM_PORT, which engines read as their own.
            "enableServiceLinks": False,
            "securityContext": security(assigned=plan.pod.assigned_user),
            "terminationGracePeriodSeconds": plan.lifecycle.grace,
            **pull_secrets(plan),
            "containers": [_engine(plan)],
            "volumes": _volumes(plan),
        },
    }
    if not plan.pod.template:
        return own
    result = merged(own, plan.pod.template)
    _keep_selection(own["spec"], result.get("spec"))
    # The selectors of Deployment, Services and budget rely on these. Other mistakes are reported by the API server.
    metadata = result.get("metadata")
    if not isinstance(metadata, dict):
        metadata = result["metadata"] = {}
    given = metadata.get("labels")
    metadata["labels"] = (given if isinstance(given, dict) else {}) | selector(plan.name)
    return result


def _keep_selection(own: Manifest, result: Any) -> None:
    """Combine the manifest's node affinity with ours; the API server reports what has the wrong shape."""
    ours = _terms(own)
    given = _terms(result)
    if ours and given and ours != given and all(isinstance(each, dict) for each in given):
        both = [
            {**theirs, "matchExpressions": [*each["matchExpressions"], *(theirs.get("matchExpressions") or ())]}
            for each in ours
            for theirs in given
        ]
        result["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] = both


def _terms(spec: Any) -> list[Any]:
    for key in ("affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"):
        spec = spec.get(key) if isinstance(spec, dict) else None
    return spec if isinstance(spec, list) else []


def placement(plan: Plan) -> Manifest:
    """Select nodes: those with the GPUs that were named, and where the model's volume can be."""
    hardware = plan.hardware
    result: Manifest = {}
    affinity: Manifest = {}
    if (label := _one_label(hardware.selection)) is not None:
        result["nodeSelector"] = dict([label])
    elif hardware.selection:
        terms = [{"matchExpressions": [_expression(each) for each in term]} for term in hardware.selection]
        affinity["nodeAffinity"] = {REQUIRED: {"nodeSelectorTerms": terms}}
    if plan.pod.exclusive:
        # The volume attaches to one node: the service's other pods, the download's too, should be on that node.
        # Not required: a pod that a dead node still has would tie its successor to that node.
        beside: Manifest = {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {SERVICE: plan.name}},
        }
        affinity["podAffinity"] = {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": beside}]
        }
    if affinity:
        result["affinity"] = affinity
    if hardware.gpus:
        result["tolerations"] = [dict(each) for each in hardware.tolerations]
    return result


def _one_label(selection: tuple[Term, ...]) -> tuple[str, str] | None:
    """Key and value, where nothing else is asked of a node."""
    match selection:
        case ((Requirement(key=key, operator="In", values=(value,)),),):
            return key, value
    return None


def _expression(requirement: Requirement) -> Manifest:
    values = {"values": list(requirement.values)} if requirement.values else {}
    return {"key": requirement.key, "operator": requirement.operator, **values}


def security(*, assigned: bool) -> Manifest:
    """Pod Security `restricted`; the group owns the volumes, so that a download can be written. Where user and group are
    assigned by the platform, it refuses pods that name others."""
    return {
        "runAsNonRoot": True,
        **({} if assigned else {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pull_secrets(plan: Plan) -> Manifest:
    return {"imagePullSecrets": [{"name": name} for name in plan.pod.pull_secrets]} if plan.pod.pull_secrets else {}


def pull_policy(plan: Plan) -> Manifest:
    return {} if plan.pod.pull_policy is None else {"imagePullPolicy": plan.pod.pull_policy}


def variables(env: tuple[Env, ...]) -> list[Manifest]:
    """The variables of a container. A user without an entry in passwd needs a home and a name."""
    given = {variable.name for variable in env}
    own = [Env("HOME", "/tmp"), Env("USER", "octavo")]  # noqa: S108 — a volume of the pod's own
    return [_variable(variable) for variable in (*(each for each in own if each.name not in given), *env)]


def cache_volume(plan: Plan) -> Manifest:
    """The volume that keeps the model: the claim, or a folder that lasts as long as the pod."""
    if plan.cache is None:
        return {"name": "cache", "emptyDir": {}}
    return {"name": "cache", "persistentVolumeClaim": {"claimName": plan.cache.claim}}


def _variable(variable: Env) -> Manifest:
    if variable.value_from is not None:
        return {"name": variable.name, "valueFrom": variable.value_from}
    return {"name": variable.name, "value": variable.value or ""}


def _engine(plan: Plan) -> Manifest:
    engine, lifecycle = plan.engine, plan.lifecycle
    return {
        "name": CONTAINER,
        "image": engine.image,
        **pull_policy(plan),
        "args": list(engine.line(None, engine.port)),
        "ports": [{"name": PORT_NAME, "containerPort": engine.port, "protocol": "TCP"}],
        "env": variables(engine.env),
        "resources": _resources(plan),
        "startupProbe": _probe(lifecycle.startup, engine),
        "readinessProbe": _probe(lifecycle.readiness, engine),
        "livenessProbe": _probe(lifecycle.liveness, engine),
        # Requests still arrive until endpoints and proxies have forgotten the pod.
        "lifecycle": {"preStop": {"sleep": {"seconds": lifecycle.pre_stop}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": dict(RESTRICTED),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 — a volume of the pod's own
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 — a volume of the pod's own
            {"name": "cache", "mountPath": CACHE_PATH},
            *_mounts_of_files(plan),
        ],
    }


def _resources(plan: Plan) -> Manifest:
    parts = {"requests": dict(plan.resources.requests), "limits": dict(plan.resources.limits)}
    return {name: amounts for name, amounts in parts.items() if amounts}


def _probe(probe: Probe, engine: EngineProcess) -> dict[str, Any]:
    scheme = {} if engine.tls is None else {"scheme": "HTTPS"}  # the kubelet takes any certificate
    return {
        "httpGet": {"path": probe.path, "port": PORT_NAME, **scheme},
        "periodSeconds": probe.period,
        "timeoutSeconds": probe.timeout,
        "failureThreshold": probe.failures,
    }


def _mounts_of_files(plan: Plan) -> list[Manifest]:
    mounts: list[Manifest] = []
    if plan.pod.model_claim is not None:
        mounts.append({"name": "model", "mountPath": CLAIM_PATH, "readOnly": True})
    if plan.pod.chat_template is not None:
        folder = TEMPLATE_PATH.rpartition("/")[0]
        mounts.append({"name": "chat-template", "mountPath": folder, "readOnly": True})
    if plan.pod.api_keys is not None:
        # The folder, for a file that is mounted by itself stays as it was when the Secret changes.
        mounts.append({"name": "api-keys", "mountPath": KEYS_PATH.rpartition("/")[0], "readOnly": True})
    return mounts


def _on_disk(plan: Plan) -> list[str]:
    """Names of the volumes that are folders of the node."""
    return ["tmp", *(["cache"] if plan.cache is None else [])]


def _volumes(plan: Plan) -> list[Manifest]:
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": plan.resources.shared_memory}},
        {"name": "tmp", "emptyDir": {}},
        cache_volume(plan),
    ]
    if plan.pod.model_claim is not None:
        # Not read-only at the claim: a claim that others write to may be on the same node in one mode only.
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": plan.pod.model_claim}})
    if plan.pod.chat_template is not None:
        config_map, key = plan.pod.chat_template
        file = TEMPLATE_PATH.rpartition("/")[2]
        volumes.append(
            {"name": "chat-template", "configMap": {"name": config_map, "items": [{"key": key, "path": file}]}}
        )
    if plan.pod.api_keys is not None:
        secret, key = plan.pod.api_keys
        items = [{"key": key, "path": KEYS_PATH.rpartition("/")[2]}]
        volumes.append({"name": "api-keys", "secret": {"secretName": secret, "items": items}})
    return volumes
