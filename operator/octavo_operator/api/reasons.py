"""All reasons of conditions and Events, each with its meaning and remedy.

A reason is API: it is added to this list and never renamed after a release. `docs/reference/conditions.md` is generated
from here. Where a table of diagnoses holds the remedy (`reconcile.diagnosis`), it is not repeated.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType, Self

Foreign = NewType("Foreign", str)
"""A word of Kubernetes' own components, passed on as it is: a pod's `status.reason`, an autoscaler's."""


class Reason(StrEnum):
    """The root of the groups below. A condition's message names the object, the amounts and the remedy for this case."""

    meaning: str
    remedy: str

    def __new__(cls, word: str, meaning: str = "", remedy: str = "") -> Self:
        """A member is its word, so it compares equal to the text that the API server holds."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning, member.remedy = meaning, remedy
        return member


AnyReason = Reason | Foreign

# fmt: off
# A table: one reason a line.

class SpecReason(Reason):
    """The spec.

    Nothing is created, and what runs is kept, until it is changed.
    """

    INVALID = "InvalidSpec", "The spec cannot be read.", "Fix the field that the message names."
    RUNTIME = "RuntimeNotSupported", "This version does not run that runtime.", "Set another `engine.runtime`."
    SCHEME = "SchemeNotSupported", "The runtime does not load models from there.", "Use one of the schemes that the message lists."
    IMAGE_UNKNOWN = "ImageUnknown", "The operator has no default image for this runtime and accelerator.", "Set `engine.image`, or the operator's `--image`."
    MODEL_TOO_SHORT = "ModelTooShort", "`engine.maxModelLen` is more than the model was trained for.", "Lower it, or leave it out."
    KV_CACHE_DTYPE = "KvCacheDtypeNotSupported", "The runtime has no KV cache of that type.", "Remove `engine.kvCacheDtype`, or change the runtime."
    QUANTIZATION = "QuantizationNotSupported", "The runtime does not take that quantization.", "Remove `engine.quantization` and name a plain or GGUF model, or change the runtime."
    ARGUMENT = "ArgumentReserved", "`engine.args` sets a flag that a field stands for.", "Remove it, and set the field that the message names."
    ARGUMENT_FILE = "ArgumentsInFile", "`engine.args` names a file of flags, which the plan can't see.", "Write its flags into `engine.args`, or set the fields that stand for them."
    CLIENT_CERTIFICATES = "ClientCertificatesRequired", "`engine.args` has the engine require a certificate of every client, and probes bring none.", "Set `--ssl-cert-reqs 1`."
    CHAT_TEMPLATE = "ChatTemplateNotSupported", "The runtime has no built-in chat templates.", "Set `model.chatTemplate.configMapName` and `key`, or change the runtime."
    SWAP_SPACE = "SwapSpaceNotSupported", "The runtime has no swap space on this hardware.", "Remove `engine.swapSpace`."


class FitReason(Reason):
    """Fit.

    Whether the model fits the GPUs, or a CPU container's memory; also why a service is refused.
    """

    FITS = "Fits", "Weights, overhead and the KV cache of `minConcurrency` sequences fit.", "Nothing to do."
    DOES_NOT_FIT = "DoesNotFit", "They do not fit.", "Set what the message proposes: a shorter `maxModelLen`, more or larger GPUs, a quantized model."
    BORDERLINE = "Borderline", "They are short by less than the estimate's error; nothing is blocked.", "Set what the message proposes if the engine runs out of memory."
    DEPENDS_ON_NODE = "DependsOnNode", "Some GPUs of the cluster would do and some would not.", "Name those that would in `accelerator.products`."
    CANNOT_BE_DIVIDED = "CannotBeDivided", "The model's heads or layers do not divide by the parallel sizes.", "Set the `engine.tensorParallelSize` that the message names."
    MODEL_NOT_SUPPORTED = "ModelNotSupported", "Octavo's engine does not run a part of the model.", "Set what the message proposes: other hardware, or another `engine.runtime`."
    SUPPORT_UNKNOWN = "SupportUnknown", "Whether an image of another version runs every part of the model is not known, or whether transformers computes one that Octavo does not describe; nothing is blocked.", "Leave out `engine.image` to have the first known; the engine's log says the second."
    GPU_TOO_OLD = "GpuTooOld", "The GPU's compute capability is less than the runtime needs.", "Name newer GPUs in `accelerator.products`, or change the runtime."
    GPU_SHARED = "GpuShared", "A replica needs several GPUs, and these are parts of GPUs (MIG, time-slicing).", "Use whole GPUs, or `engine.tensorParallelSize: 1`."
    MODEL_UNKNOWN = "ModelUnknown", "The model's description is not available; nothing is blocked.", "Give it by the annotation `octavo.dev/model-config`, or its size by `octavo.dev/model-size`."
    GPU_UNKNOWN = "GpuUnknown", "The memory of the GPUs is not known; nothing is blocked.", "Name known `accelerator.products`, or install GPU feature discovery."
    OVERRIDDEN = "OverriddenByAnnotation", "It does not fit, and `octavo.dev/ignore-fit` has it started anyway.", "Remove the annotation to have the fit enforced."
    ALREADY_SERVING = "AlreadyServing", "It would not fit, but replicas serve already and stay as they are.", "Set what the message proposes before the next change."


class StateReason(Reason):
    """Replicas.

    The state of the service as a whole.
    """

    SERVING = "Serving", "The desired replicas answer.", "Nothing to do."
    CREATING = "Creating", "The objects of the service are being created.", "Wait."
    STARTING = "Starting", "Pods are being started, or an autoscaler has not looked yet.", "Wait."
    LOADING_MODEL = "LoadingModel", "The engine loads the model.", "Wait for as long as the message says."
    ROLLING_OUT = "RollingOut", "A change reaches the replicas.", "Wait."
    ROLLOUT_PENDING = "RolloutPending", "A change has not begun: no GPU is free for it.", "Wait, add a node, or set `rollout.strategy: InPlace`."
    PROGRESSING = "Progressing", "It may still move on by itself.", "Nothing to do yet."
    SUSPENDED = "Suspended", "`spec.suspend` keeps all replicas away.", "Set `suspend: false` to start them."
    SCALED_TO_ZERO = "ScaledToZero", "No replica is desired.", "Set `replicas: 1`, or leave it to the autoscaler."
    UNRESPONSIVE = "Unresponsive", "A replica that was ready no longer answers its health probe.", "See `kubectl logs`, and `kubectl logs -p` after a restart."
    DEADLINE_EXCEEDED = "ProgressDeadlineExceeded", "No replica of a change became ready in time.", "See `kubectl describe pod` and the logs of the newest pod."
    TWO_OPERATORS = "TwoOperators", "Two operators reconcile the service, and one has given way.", "Give each its own namespaces (`watchNamespaces`), or uninstall one."


class StorageReason(Reason):
    """Storage.

    The model's cache and the volumes of the pods.
    """

    NO_CACHE = "NoCache", "No volume keeps the model.", "Set `cache: {}` to keep it between restarts."
    NOT_PRELOADED = "NotPreloaded", "`cache.preload` is off: replicas download what is missing.", "Nothing to do."
    PRELOADED = "Preloaded", "The model is complete on its volume.", "Nothing to do."
    DOWNLOADING = "DownloadingModel", "The Job downloads the model; replicas start afterwards.", "Wait."
    DOWNLOAD_FAILED = "DownloadFailed", "The download has failed for good.", "Fix the cause, then delete the Job to try again."
    DOWNLOAD_SUSPENDED = "DownloadSuspended", "The Job that downloads the model is suspended.", "See the queue (Kueue) or person that suspended it."
    CLAIM_LOST = "ClaimLost", "The claim's volume no longer exists.", "Delete the claim; it is created again."
    CLAIM_PENDING = "ClaimPending", "The claim has no volume yet.", "Wait, or see what the provisioner reports."
    CLAIM_MISSING = "ClaimMissing", "A claim that the spec names does not exist.", "Create it, or name another in `cache.existingClaim`."
    STORAGE_CLASS_MISSING = "StorageClassMissing", "The claim's storage class does not exist.", "Create it, or set `cache` again with another class."
    NO_STORAGE_CLASS = "NoStorageClass", "No class is named and the cluster has no default.", "Mark a class as the default, or name one in `cache.storageClassName`."
    ACCESS_MODE = "AccessModeNotSupported", "The storage class cannot provide the claim's access mode.", "Set `cache.accessMode: ReadWriteOnce`, or a class that shares files."
    VOLUME_NOT_BOUND = "VolumeNotBound", "A volume of the pod is not there yet.", "See that its storage class exists and can provision."
    MULTI_ATTACH = "MultiAttach", "A volume is attached to another node.", "Wait for the pod that has it, end it, or use a ReadWriteMany claim."
    CLAIM_IN_USE = "ClaimInUse", "The claim is ReadWriteOncePod, and another pod has it.", "Set `replicas: 1`, or use a claim with another access mode."
    VOLUME_ELSEWHERE = "VolumeElsewhere", "The volume is tied to other nodes or to another zone.", "Make room there, or use a storage class that reaches all nodes."
    CLAIM_TERMINATING = "ClaimTerminating", "The claim is being deleted.", "End the pods that use it and create it again, or name another claim."
    FAILED_MOUNT = "FailedMount", "A volume cannot be mounted.", "Create what the message names as missing, or see the storage driver on that node."
    FAILED_ATTACH = "FailedAttachVolume", "A volume cannot be attached to the node.", "See the storage driver on that node."
    FAILED_MAP = "FailedMapVolume", "A block volume cannot be mapped on the node.", "See the storage driver on that node."
    DISK_FULL = "DiskFull", "The volume or the node's disk is full."


class SchedulingReason(Reason):
    """Scheduling.

    A pod has no node.
    """

    GATED = "SchedulingGated", "A scheduling gate holds the pod back.", "See the queue (Kueue) or controller that removes it."
    NO_FREE_GPU = "NoFreeGpu", "The GPUs that would do are taken.", "Free one, or add a node."
    NO_SUCH_GPU = "NoSuchGpu", "No node has such a GPU.", "Add one, change `accelerator.products`, or install NVIDIA's device plugin."
    TOO_FEW_GPUS = "TooFewGpus", "No node has as many GPUs as a replica takes.", "Lower `engine.tensorParallelSize`, or add a larger node."
    UNSCHEDULABLE = "Unschedulable", "No node meets the pod's requirements.", "Lower the requests that the message names, or add a node."


class PodReason(Reason):
    """Pods.

    A pod has a node, and its containers do not start.
    """

    IMAGE = "ImagePullBackOff", "The image cannot be pulled.", "Check `engine.image`, and `engine.image.pullSecrets` for a private registry."
    CONFIG = "CreateContainerConfigError", "The container refers to something that does not exist, or is not valid.", "Create what is missing, or fix the spec."
    CREATE = "CreateContainerError", "The container runtime cannot create the container.", "Fix the spec as the message says."
    RUN = "RunContainerError", "The container runtime cannot start the container.", "Fix the spec as the message says."
    SANDBOX = "FailedCreatePodSandBox", "The node cannot set up the pod.", "See its network plugin and container runtime."
    NETWORK = "NetworkNotReady", "The node's network is not ready.", "See its network plugin."
    PRE_STOP = "FailedPreStopHook", "A pod's preStop hook has failed.", "See the node's container runtime."
    KILL = "FailedKillPod", "The node cannot end the pod.", "See its container runtime."
    DEVICES = "FailedPrepareDynamicResources", "The node cannot prepare the pod's devices.", "See the device driver there."
    ADMISSION = "UnexpectedAdmissionError", "The node does not admit the pod, usually for its devices.", "See the device plugin there."
    NODE_AFFINITY = "NodeAffinity", "The node no longer matches the pod's node affinity.", "See the node's labels and its device plugin."


class EngineReason(Reason):
    """Engines and downloads.

    A container has exited.
    """

    OOM_KILLED = "OOMKilled", "The container used more memory than it may.", "Raise `resources.limits.memory`, or lower `engine.maxNumSeqs`."
    CRASHED = "EngineCrashed", "The engine exited for a reason that is not recognized.", "See `kubectl logs -p`."
    MODEL_ACCESS_DENIED = "ModelAccessDenied", "The model's source refuses access."
    MODEL_NOT_FOUND = "ModelNotFound", "The source has no such model, revision or file."
    TLS_UNTRUSTED = "TlsUntrusted", "The certificate of the model's source is not trusted."
    MODEL_UNREACHABLE = "ModelUnreachable", "The model's source cannot be reached from the pod."
    GPU_UNAVAILABLE = "GpuUnavailable", "The container has no usable GPU."
    GPU_UNSUPPORTED = "GpuUnsupported", "The image holds no kernels for this GPU."
    OUT_OF_MEMORY = "EngineOutOfMemory", "GPU or host memory ran out."
    SHARED_MEMORY_FULL = "SharedMemoryFull", "/dev/shm is full."  # noqa: S108 — a sentence
    WRONG_ARCHITECTURE = "WrongArchitecture", "The image is for another CPU."
    IMAGE_UNSUITABLE = "ImageUnsuitable", "The image does not hold the runtime's program."
    PERMISSION_DENIED = "PermissionDenied", "Files on a volume may not be read or written."
    GPU_COMMUNICATION = "GpuCommunicationFailed", "NCCL, which joins the GPUs, has failed."
    REFUSED = "EngineRefused", "The engine does not take its arguments or the model."


class ApiReason(Reason):
    """The API server.

    It does not take an object of the service.
    """

    WEBHOOK_FAILED = "WebhookFailed", "An admission webhook cannot be called."
    NAMESPACE_TERMINATING = "NamespaceTerminating", "The namespace is being deleted."
    QUOTA_NEEDS_VALUES = "QuotaNeedsValues", "A ResourceQuota requires requests or limits."
    QUOTA_NOT_READY = "QuotaNotReady", "A new ResourceQuota has not been counted yet."
    QUOTA_EXCEEDED = "QuotaExceeded", "A ResourceQuota is used up."
    LIMIT_RANGE = "LimitRangeViolated", "Requests or limits are outside the namespace's LimitRange."
    PRIORITY_CLASS = "PriorityClassMissing", "The pod's priority class does not exist."
    RUNTIME_CLASS = "RuntimeClassMissing", "The pod's runtime class does not exist."
    SERVICE_ACCOUNT = "ServiceAccountMissing", "The pod's ServiceAccount does not exist."
    SECRET_NOT_ALLOWED = "SecretNotAllowed", "The ServiceAccount may not mount the Secret."
    CLAIM_CANNOT_GROW = "ClaimCannotGrow", "The storage class does not expand volumes."
    NODE_SELECTOR = "NodeSelectorConflict", "The pod's node selector conflicts with the namespace's."
    SECURITY_CONTEXT = "SecurityContextRefused", "No security context constraint of the platform allows the pod."
    POD_SECURITY = "PodSecurityViolated", "The pod violates the namespace's Pod Security level."
    ADMISSION_DENIED = "AdmissionDenied", "A policy of the cluster refuses the object.", "Satisfy the policy, change `podTemplate`, or have the service exempted."
    UNKNOWN_FIELD = "UnknownField", "`podTemplate` has a field that Kubernetes does not know."
    FIELD_MANAGER = "FieldManagerConflict", "Another field manager owns the fields."
    SERVER_BUSY = "ServerBusy", "The API server or etcd is overloaded."
    FORBIDDEN = "Forbidden", "The operator lacks a permission.", "Give it the permissions in `config/rbac`."
    NAME_TAKEN = "NameTaken", "An object of that name belongs to another owner.", "Delete it, or rename the service."
    FORMER_REMOVED = "FormerServiceRemoved", "An object of a deleted service of that name is still being removed.", "Wait."
    OBJECT_TERMINATING = "ObjectTerminating", "An object of the service is being deleted; it is created again afterwards.", "Wait; if it stays, see its finalizers."
    NO_ANSWER = "NoAnswer", "The API server did not answer in time.", "See whether an admission webhook is slow; it is tried again."
    UNAUTHORIZED = "Unauthorized", "The operator's credentials are not accepted.", "See the operator's log."
    KIND_UNKNOWN = "KindUnknown", "The cluster does not have that kind.", "Install its CustomResourceDefinition."
    CLAIM_IMMUTABLE = "ClaimImmutable", "A field of a claim cannot be changed.", "Take the change back."
    CHILD_INVALID = "ChildInvalid", "The object is not valid.", "Fix the field of the spec that it came from."
    APPLY_FAILED = "ApplyFailed", "The API server failed at it.", "It is tried again; see the message."


class AutoscalingReason(Reason):
    """Autoscaling.

    The HorizontalPodAutoscaler, and where its metrics come from.
    """

    NOT_CONFIGURED = "NotConfigured", "`spec.autoscaling` is not set.", "Nothing to do."
    ACTIVE = "Active", "The autoscaler reads its metrics and scales.", "Nothing to do."
    DISABLED = "ScalingDisabled", "The autoscaler rests while the Deployment has no replicas.", "Set `replicas: 1` to start it."
    API_UNKNOWN = "MetricsApiUnknown", "Who serves custom.metrics.k8s.io has not been read yet.", "Wait."
    API_SERVED = "MetricsApiServed", "The operator serves custom.metrics.k8s.io.", "Nothing to do."
    API_UNSERVED = "MetricsApiUnserved", "No replica of the operator serves custom.metrics.k8s.io.", "See the container `metrics-api` of the operator's pods."
    API_NAMESPACED = "MetricsApiNamespaced", "An operator of single namespaces serves no metrics API.", "Use KEDA or prometheus-adapter (`config/autoscaling`)."
    API_DISABLED = "MetricsApiDisabled", "The operator's metrics API is switched off.", "Use KEDA or prometheus-adapter (`config/autoscaling`)."
    API_FOREIGN = "MetricsApiForeign", "Another program serves custom.metrics.k8s.io.", "Give it Octavo's rules (`config/autoscaling/prometheus-adapter.yaml`), or use KEDA."
    API_UNREACHABLE = "MetricsApiUnreachable", "The API server cannot reach the operator's metrics API.", "Let the control plane connect to the port that the message names."


class UpgradeReason(Reason):
    """Upgrades.

    The move of a service to the images and pod templates of a new release of the operator.
    """

    UP_TO_DATE = "UpToDate", "The replicas have what this release renders.", "Nothing to do."
    UPGRADING = "Upgrading", "The replicas move to this release.", "Wait; if they do not serve, they get their former template back."
    FAILED = "UpgradeFailed", "They did not serve it and have their former template again.", "Fix the cause, then edit the spec or set the annotation that the message names."
    AVAILABLE = "UpgradeAvailable", "`rollout.upgradePolicy` is Manual, and a release is available.", "Set the annotation that the message names to take it."
    PENDING = "UpgradePending", "The service waits for its turn, or until its replicas serve.", "Wait."
    STOPPED = "UpgradesStopped", "Several services in a row did not serve the release.", "Fix the cause that their condition UpToDate names."


class EventReason(Reason):
    """Events alone.

    Every reason above appears in Events as well.
    """

    PLAN_WARNING = "PlanWarning", "The plan has a new warning.", "Do what it proposes, or leave it."
    RESTORED = "Restored", "A child was changed by hand and has been changed back.", "Change the LLMService; `podTemplate` has what no field has."
# fmt: on

GROUPS: tuple[type[Reason], ...] = (
    SpecReason,
    FitReason,
    StateReason,
    StorageReason,
    SchedulingReason,
    PodReason,
    EngineReason,
    ApiReason,
    AutoscalingReason,
    UpgradeReason,
    EventReason,
)
REASONS = tuple(reason for group in GROUPS for reason in group)
