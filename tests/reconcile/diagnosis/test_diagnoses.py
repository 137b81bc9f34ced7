"""Diagnoses of real messages of the API server, the scheduler, kubelets and runtimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from octavo_operator.api.observed import Nodes, Observed, WarningEvent
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner import plan
from octavo_operator.reconcile.applying import Rejection
from octavo_operator.reconcile.diagnosis.pods import PATIENCE_S, trouble_of
from octavo_operator.reconcile.diagnosis.redaction import redacted
from octavo_operator.reconcile.diagnosis.rejections import trouble_of as trouble_of_refusal
from octavo_operator.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def planned(**spec):
    body = {"model": {"uri": "hf://org/model"}, "accelerator": {"products": ["NVIDIA-L4"]}} | spec
    manifest = {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "s", "namespace": "n"},
        "spec": body,
    }
    return plan(LLMService.model_validate(manifest), Observed(), Settings())


# As the API server 1.34 words them; (kind, status, words) -> (reason, stuck, the remedy's words).
REFUSALS = [
    ("Pod", 403, 'pods "s-1" is forbidden: failed quota: team: must specify limits.cpu for: engine; limits.memory for: engine', "QuotaNeedsValues", True, "resources.limits"),
    ("Pod", 403, 'pods "s-1" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4', "QuotaExceeded", True, "raise the ResourceQuota"),
    ("Pod", 403, 'pods "s-1" is forbidden: maximum memory usage per Container is 1Gi, but limit is 4Gi', "LimitRangeViolated", True, "LimitRange"),
    ("Pod", 403, 'pods "s-1" is forbidden: minimum cpu usage per Container is 2, but request is 1', "LimitRangeViolated", True, "LimitRange"),
    ("Pod", 403, 'pods "s-1" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000', "LimitRangeViolated", True, "LimitRange"),
    ("PersistentVolumeClaim", 403, 'persistentvolumeclaims "s-cache" is forbidden: maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 160Gi', "LimitRangeViolated", True, "LimitRange"),
    ("Pod", 403, 'pods "s-1" is forbidden: no PriorityClass with name inference-high was found', "PriorityClassMissing", True, "priorityClassName"),
    ("Pod", 403, 'pods "s-1" is forbidden: pod rejected: RuntimeClass "nvidia" not found', "RuntimeClassMissing", True, "runtimeClassName"),
    ("Pod", 403, 'pods "s-1" is forbidden: error looking up service account n/model-reader: serviceaccount "model-reader" not found', "ServiceAccountMissing", True, "serviceAccountName"),
    ("PersistentVolumeClaim", 403, 'persistentvolumeclaims "s-cache" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize', "ClaimCannotGrow", True, "allowVolumeExpansion"),
    ("Pod", 403, 'pods "s-1" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "engine" must set securityContext.allowPrivilegeEscalation=false)', "PodSecurityViolated", True, "podTemplate"),
    ("Pod", 403, 'pods "s-1" is forbidden: unable to validate against any security context constraint: [provider "anyuid": Forbidden: not usable by user or serviceaccount, spec.containers[0].securityContext.runAsUser: Invalid value: 65532: must be in the ranges: [1000660000, 1000669999]]', "SecurityContextRefused", True, "SCC"),
    ("Pod", 403, 'pods "s-1" is forbidden: pod node label selector conflicts with its namespace node label selector', "NodeSelectorConflict", True, "nodeSelector"),
    ("Deployment", 403, 'admission webhook "validation.gatekeeper.sh" denied the request: [limits] container <engine> has no limits', "AdmissionDenied", True, "satisfy the policy"),
    ("Deployment", 422, "deployments.apps \"s\" is forbidden: ValidatingAdmissionPolicy 'replicas' with binding 'all' denied request: failed expression: object.spec.replicas <= 5", "AdmissionDenied", True, "satisfy the policy"),
    ("Deployment", 500, 'Internal error occurred: failed calling webhook "istio.example": failed to call webhook: Post "https://istiod.istio-system.svc:443/inject?timeout=10s": context deadline exceeded', "WebhookFailed", False, "tried again"),
    ("Deployment", 403, 'deployments.apps "s" is forbidden: User "system:serviceaccount:octavo-system:octavo-operator" cannot patch resource "deployments" in API group "apps" in the namespace "n"', "Forbidden", True, "config/rbac"),
    ("Service", 403, 'services "s" is forbidden: unable to create new content in namespace n because it is being terminated', "NamespaceTerminating", True, "nothing can be created"),
    ("Deployment", 500, "failed to create typed patch object (n/s; apps/v1, Kind=Deployment): .spec.template.spec.tolerationz: field not declared in schema", "UnknownField", True, "podTemplate"),
    ("Deployment", 422, 'Deployment.apps "s" is invalid: spec.template.spec.containers[0].resources.requests: Invalid value: "64Gi": must be less than or equal to memory limit of 32Gi', "ChildInvalid", True, "field of the spec"),
    ("PersistentVolumeClaim", 422, 'PersistentVolumeClaim "s-cache" is invalid: spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims', "ClaimImmutable", True, "take the change back"),
    ("ServiceMonitor", 404, "the server could not find the requested resource", "KindUnknown", True, "CustomResourceDefinition"),
    ("Deployment", 429, "the server has received too many requests and has asked us to try again later", "ServerBusy", False, "tried again"),
    ("Deployment", 503, "etcdserver: leader changed", "ServerBusy", False, "tried again"),
    ("Pod", 403, 'pods "s-1" is forbidden: status unknown for quota: team, resources: limits.cpu', "QuotaNotReady", False, "tried again"),
    ("Pod", 403, 'Pod "s-1" is invalid: spec.containers[0].resources.requests: Invalid value: "4Gi": must be less than or equal to memory limit of 1Gi', "LimitRangeViolated", True, "set resources.limits"),
    ("Pod", 403, 'Error creating: Pod "s-1" is invalid: spec.containers[0].resources.requests: Invalid value: "4Gi": must be less than or equal to memory limit of 1Gi', "LimitRangeViolated", True, "set resources.limits"),
    ("Deployment", 403, 'deployments.apps "s" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=4, limited: count/deployments.apps=4', "QuotaExceeded", True, "raise the ResourceQuota"),
    ("Deployment", 403, 'admission webhook "validate.kyverno.svc-fail" denied the request without explanation', "AdmissionDenied", True, "satisfy the policy"),
    ("Pod", 403, 'pods "s-1" is forbidden: image policy webhook backend denied one or more images: not signed', "AdmissionDenied", True, "satisfy the policy"),
    ("Deployment", 413, "Request entity too large: limit is 3145728", "ChildInvalid", True, "field of the spec"),
    ("Service", 404, 'namespaces "n" not found', "NamespaceTerminating", True, "nothing can be created"),
    ("Deployment", 403, "an in-house admission plugin says no", "AdmissionDenied", True, "admission plugin"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "status", "words", "reason", "stuck", "remedy"), REFUSALS)
def test_a_refusal_is_classified_by_the_words_of_who_refused(kind, status, words, reason, stuck, remedy):
    """A 403 is RBAC's only if RBAC says so; what only time can change is not stuck."""
    trouble = trouble_of_refusal(Rejection(kind, "s", "Forbidden", words, status=status))
    assert (trouble.reason, trouble.stuck) == (reason, stuck)
    assert words in trouble.message
    assert remedy in trouble.message
    assert ("config/rbac" in trouble.message) == (reason == "Forbidden")


# (exit code, the container's reason, its last words) -> (reason, the remedy's words)
CRASHES = [
    (1, "Error", "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1-6) Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-2-7b-hf/resolve/main/config.json.", "ModelAccessDenied", "terms"),
    (1, "Error", "octavo: hf://meta-llama/Llama-2-7b: this model is gated; ask for access at https://huggingface.co/meta-llama/Llama-2-7b; the token in HF_TOKEN is needed", "ModelAccessDenied", "model.credentials"),
    (1, "Error", "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://huggingface.co/api/models/org/model", "ModelAccessDenied", "model.credentials"),
    (1, "Error", "huggingface_hub.errors.RevisionNotFoundError: 404 Client Error. Revision Not Found for url", "ModelNotFound", "model.revision"),
    (1, "Error", "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in certificate chain", "TlsUntrusted", "SSL_CERT_FILE"),
    (1, "Error", "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: /api/models/org/model (Caused by NameResolutionError: Temporary failure in name resolution)", "ModelUnreachable", "HTTPS_PROXY"),
    (1, "Error", "RuntimeError: No CUDA GPUs are available", "GpuUnavailable", "nvidia-smi"),
    (1, "Error", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "GpuUnavailable", "device plugin"),
    (1, "Error", "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG`", "GpuUnavailable", "device plugin"),
    (1, "Error", "RuntimeError: CUDA error: no kernel image is available for execution on the device", "GpuUnsupported", "accelerator.products"),
    (1, "Error", "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute capability 7.5.", "GpuUnsupported", "accelerator.products"),
    (1, "Error", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 22.03 GiB", "EngineOutOfMemory", "gpuMemoryUtilization"),
    (1, "Error", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.", "EngineOutOfMemory", "maxModelLen"),
    (1, "Error", "terminate called after throwing an instance of 'std::bad_alloc'", "EngineOutOfMemory", "resources.limits.memory"),
    (1, "Error", "OSError: [Errno 28] No space left on device: '/cache/hub/models--org--model/blobs/abc.incomplete'", "DiskFull", "cache.size"),
    (135, "Error", "", "SharedMemoryFull", "sharedMemory"),
    (132, "Error", "", "WrongArchitecture", "kubernetes.io/arch"),
    (1, "Error", "exec /usr/bin/python3: exec format error", "WrongArchitecture", "kubernetes.io/arch"),
    (128, "StartError", 'failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "vllm": executable file not found in $PATH: unknown', "ImageUnsuitable", "engine.runtime"),
    (1, "Error", "PermissionError: [Errno 13] Permission denied: '/cache/hub'", "PermissionDenied", "fsGroup"),
    (1, "Error", "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, ncclUnhandledCudaError", "GpuCommunicationFailed", "NCCL_DEBUG"),
    (2, "Error", "octavo serve: error: unrecognized arguments: --swap-spaces 4", "EngineRefused", "fix the field"),
    (1, "Error", "ValueError: The checkpoint you are trying to load has model type `foo` but Transformers does not recognize this architecture.", "EngineRefused", "image that supports it"),
    (137, "OOMKilled", "", "OOMKilled", "resources.limits.memory"),
    (137, "Error", "", "EngineCrashed", "kubectl logs -p"),
    # By chance: a line of a traceback, a port, a shape, a path, a word of another meaning.
    (1, "Error", 'File "/opt/engine/loader.py", line 401, in load\nKeyError: \'lm_head\'', "EngineCrashed", "kubectl logs -p"),
    (1, "Error", "RuntimeError: shape mismatch: [4096, 403] and [403, 128]", "EngineCrashed", "kubectl logs -p"),
    (1, "Error", "OSError: [Errno 98] address already in use: ('0.0.0.0', 4010)", "EngineCrashed", "kubectl logs -p"),
    (1, "Error", "KeyError: 'gated_mlp.weight'", "EngineCrashed", "kubectl logs -p"),
    (1, "Error", "AssertionError: propagated 403 tokens", "EngineCrashed", "kubectl logs -p"),
]  # fmt: skip


def pod(*, container=None, conditions=(), spec=None, **status):
    found = {"Ready": {"type": "Ready", "status": "False"}} | {each["type"]: each for each in conditions}
    statuses = {"containerStatuses": [container]} if container else {}
    return {
        "metadata": {"name": "s-1", "labels": {}},
        "spec": spec or {},
        "status": {"conditions": list(found.values()), **statuses, **status},
    }


@pytest.mark.parametrize(("code", "how", "words", "reason", "remedy"), CRASHES)
def test_a_crash_is_classified_by_exception_and_structure_never_by_a_bare_number(code, how, words, reason, remedy):
    ended = {"terminated": {"exitCode": code, "reason": how, "message": words}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": "engine", "state": waiting, "lastState": ended, "restartCount": 3}
    trouble = trouble_of(pod(container=container), planned(), None)
    assert trouble is not None
    assert (trouble.reason, trouble.stuck) == (reason, True)
    assert remedy in trouble.message


# As containerd and CRI-O word them
IMAGES = [
    ("ErrImagePull", 'failed to pull and unpack image "docker.io/octavo/engine:9": failed to resolve reference "docker.io/octavo/engine:9": docker.io/octavo/engine:9: not found', "no such image or tag"),
    ("ImagePullBackOff", 'Back-off pulling image "r.example/e:1": ErrImagePull: failed to authorize: failed to fetch oauth token: 401 Unauthorized', "pullSecrets"),
    ("ErrImagePull", "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed", "pullSecrets"),
    ("ErrImagePull", "429 Too Many Requests - Server message: toomanyrequests: You have reached your unauthenticated pull rate limit.", "limits pulls"),
    ("ErrImagePull", "no match for platform in manifest: not found", "kubernetes.io/arch"),
    ("ErrImagePull", 'Head "https://r.example/v2/e/manifests/1": tls: failed to verify certificate: x509: certificate signed by unknown authority', "trust that registry"),
    ("ImageInspectError", 'rpc error: code = Unknown desc = short-name "octavo/engine:9" did not resolve to an alias and no unqualified-search registries are defined', "name its registry"),
    ("ErrImagePull", "short name mode is enforcing, but image name octavo/engine:9 returns ambiguous list", "image.registry"),
    ("RegistryUnavailable", "the registry r.example is not available", "check engine.image"),
    ("ErrImagePull", 'Head "https://r.example/v2/e/manifests/1": dial tcp: lookup r.example: no such host', "let the nodes reach"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "words", "remedy"), IMAGES)
def test_an_image_that_can_not_be_pulled_is_reported_with_the_remedy_for_its_cause(reason, words, remedy):
    container = {"image": "r.example/e:1", "state": {"waiting": {"reason": reason, "message": words}}}
    trouble = trouble_of(pod(container=container), planned(), None)
    assert trouble is not None
    assert trouble.reason == "ImagePullBackOff"
    assert remedy in trouble.message


# Events of kubelet, attach-detach controller, device manager, network plugin: (reason, note) -> (reason, stuck, words)
WARNINGS = [
    ("FailedMount", 'MountVolume.SetUp failed for volume "chat-template" : configmap "no-such-template" not found', "FailedMount", True, 'configmap "no-such-template" not found; create it'),
    ("FailedMount", 'MountVolume.SetUp failed for volume "token" : references non-existent secret key: hf', "FailedMount", True, "create it"),
    ("FailedMount", "Unable to attach or mount volumes: unmounted volumes=[cache], unattached volumes=[], failed to process volumes=[]: timed out waiting for the condition", "FailedMount", False, "storage's driver"),
    ("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other-1', "MultiAttach", False, "ReadWriteMany"),
    ("FailedAttachVolume", 'AttachVolume.Attach failed for volume "pvc-1" : rpc error: code = DeadlineExceeded', "FailedAttachVolume", False, "storage's driver"),
    ("FailedCreatePodSandBox", "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox: no IP addresses available in range set", "FailedCreatePodSandBox", False, "network plugin"),
    ("UnexpectedAdmissionError", "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu, which is unexpected", "UnexpectedAdmissionError", False, "device plugin"),
    ("BackOff", "something that says nothing new", "Starting", False, "being started"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "note", "expected", "stuck", "words"), WARNINGS)
def test_what_keeps_a_pod_in_container_creating_is_read_from_its_events(reason, note, expected, stuck, words):
    container = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    trouble = trouble_of(pod(container=container, phase="Pending"), planned(), None, WarningEvent(reason, note))
    assert trouble is not None
    assert (trouble.reason, trouble.stuck) == (expected, stuck)
    assert words in trouble.message


def test_a_word_of_a_kubelet_that_no_table_has_is_passed_on():
    """A newer kubelet's, or a container runtime's own; not what says nothing."""
    state = {"waiting": {"reason": "Some.reason/of its own", "message": "odd"}}
    trouble = trouble_of(pod(container={"state": state}, phase="Pending"), planned(), None)
    assert trouble is not None
    assert (trouble.reason, trouble.stuck) == ("Some.reason/of its own", False)
    assert "odd" in trouble.message
    state = {"waiting": {"reason": "PodInitializing"}}
    trouble = trouble_of(pod(container={"state": state}, phase="Pending"), planned(), None)
    assert trouble is not None
    assert trouble.reason == "Starting"


def running(ready_since, started):
    container = {"state": {"running": {"startedAt": at(started)}}, "started": True}
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": at(ready_since)}
    return pod(container=container, conditions=[ready], phase="Running")


def test_a_replica_that_served_and_no_longer_answers_is_unresponsive_not_loading():
    """Such a replica was ready after its container had started; one that has been restarted since loads again."""
    trouble = trouble_of(running(ready_since=600, started=60), planned(), None)
    assert trouble is not None
    assert trouble.reason == "Unresponsive"
    assert "restarts it once that has lasted for 60 s" in trouble.message
    for loading in (running(ready_since=60, started=60), running(ready_since=600, started=700)):
        trouble = trouble_of(loading, planned(), None)
        assert trouble is not None
        assert trouble.reason == "LoadingModel"


def unscheduled(words="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", reason="Unschedulable"):
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": words}
    return pod(conditions=[condition | {"lastTransitionTime": at(0)}], phase="Pending")


@pytest.mark.parametrize(
    ("nodes", "reason", "words"),
    [
        (Nodes(0, 0), "NoSuchGpu", "add such a node"),
        (Nodes(0, 0, ("Tesla-T4",)), "NoSuchGpu", "nodes have Tesla-T4"),
        (Nodes(0, 0, ("NVIDIA-L4",), ("gpu-1 has the taint team=a:NoSchedule",)), "NoFreeGpu", "gpu-1 has the taint team=a:NoSchedule"),
    ],
)  # fmt: skip
def test_an_autoscaler_has_time_to_add_a_node_and_then_it_takes_a_person(nodes, reason, words):
    """Pending with a stated patience, and Stalled afterwards; the node and its taint are named."""
    early = trouble_of(unscheduled(), planned(), nodes, None, START + timedelta(seconds=PATIENCE_S - 1))
    late = trouble_of(unscheduled(), planned(), nodes, None, START + timedelta(seconds=PATIENCE_S + 1))
    assert early is not None
    assert late is not None
    assert (early.reason, early.stuck, late.reason, late.stuck) == (reason, False, reason, True)
    assert words in early.message
    assert ("15 minutes" in early.message) == (reason == "NoSuchGpu")
    assert "15 minutes" not in late.message


# As the scheduler's volume plugins word it
PLACELESS = [
    ("0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.", "ClaimInUse", "set replicas: 1"),
    ("0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod. no new claims to deallocate.", "ClaimInUse", "set replicas: 1"),
    ("0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had volume node affinity conflict.", "VolumeElsewhere", "make room there"),
    ("0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.", "VolumeElsewhere", "tied to other nodes"),
    ("0/2 nodes are available: 2 node(s) had no available volume zone.", "VolumeElsewhere", "another zone"),
    ('0/2 nodes are available: persistentvolumeclaim "models" is being deleted.', "ClaimTerminating", "name another claim"),
    ('0/2 nodes are available: persistentvolumeclaim "models" bound to non-existent persistentvolume "pv-1".', "ClaimLost", "delete the claim"),
    ('0/2 nodes are available: persistentvolumeclaim "models" not found.', "ClaimMissing", "cache.existingClaim"),
    ("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "VolumeNotBound", "storage class"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "reason", "remedy"), PLACELESS)
def test_a_volume_that_keeps_a_pod_from_all_nodes_is_reported_with_its_remedy(words, reason, remedy):
    trouble = trouble_of(unscheduled(words), planned(accelerator={"vendor": "cpu"}), None, None, START)
    assert trouble is not None
    assert trouble.reason == reason
    assert remedy in trouble.message


def test_a_download_without_a_node_waits_for_no_gpu():
    """Its pod asks for none: that all are taken is no reason, and what a replica requests is no remedy."""
    download = unscheduled("0/2 nodes are available: 2 Insufficient memory.")
    download["metadata"]["labels"] = {"app.kubernetes.io/component": "preload"}
    requests = {"cpu": "250m", "memory": "1Gi"}
    download["spec"] = {"containers": [{"name": "preload", "resources": {"requests": requests}}]}
    trouble = trouble_of(download, planned(), Nodes(0, 2, gpus=()), None, START)
    assert trouble is not None
    assert trouble.reason == "Unschedulable"
    assert "cpu 250m and memory 1Gi" in trouble.message
    assert "resources.requests" not in trouble.message


def test_the_autoscalers_own_refusal_is_passed_on():
    warning = WarningEvent("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached")
    trouble = trouble_of(unscheduled(), planned(), Nodes(0, 0), warning, START)
    assert trouble is not None
    assert "max node group size reached" in trouble.message


def test_a_gated_pod_names_its_gate():
    gated = unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")
    gated["spec"] = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}
    trouble = trouble_of(gated, planned(), Nodes(0, 0))
    assert trouble is not None
    assert (trouble.reason, trouble.stuck) == ("SchedulingGated", False)
    assert "kueue.x-k8s.io/admission" in trouble.message


@pytest.mark.parametrize(
    ("words", "secret"),
    [
        ("GET https://user:pa55word@hub.example/model: 404", "pa55word"),
        ("Authorization: Bearer hf_abcdefghijklmnopqrstuv", "hf_abcdefghijklmnopqrstuv"),
        ("token=abcdefgh123 was refused", "abcdefgh123"),
        ("HF_TOKEN='hf_abcdefghijklmnopqrstuv'", "hf_abcdefghijklmnopqrstuv"),
        ("https://b.s3.amazonaws.com/m?X-Amz-Credential=AKIAABCDEFGHIJKLMNOP%2F2026&X-Amz-Signature=0123abcd", "0123abcd"),
        ("aws_secret_access_key: wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
        ("login with eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl failed", "eyJzdWIiOiIxMjM0NSJ9"),
        ("using sk-abcdefghijklmnopqrstuvwx", "sk-abcdefghijklmnop"),
    ],
)  # fmt: skip
def test_last_words_lose_their_credentials(words, secret):
    assert secret in words
    assert secret not in redacted(words)
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": words}}
    trouble = trouble_of(pod(container={"state": ended}), planned(), None)
    assert trouble is not None
    assert secret not in trouble.message


@pytest.mark.parametrize(
    "words",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB",
        "token: the tokenizer has 32000 tokens; max_tokens: 4096",
        "https://huggingface.co/org/model/resolve/main/config.json: 404",
        'secret "keys" not found',
        "check the token in the Secret that model.credentials names",
    ],
)
def test_words_without_credentials_stay_as_they_are(words):
    assert redacted(words) == words
