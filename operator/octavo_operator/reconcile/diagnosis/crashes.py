"""Diagnoses the end of an engine's process by its exit code and last words. Pure.

Matches the exception that was raised or a runtime's whole phrase, never a number or a word that may stand there by
chance: a traceback is full of line numbers, ports and shapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo_operator.api.reasons import EngineReason, Reason, StorageReason


@dataclass(frozen=True, slots=True)
class Signature:
    """The traces that a kind of failure leaves. `codes` are exit codes that are enough without words."""

    reason: Reason
    words: re.Pattern[str] | None
    remedy: str
    codes: frozenset[int] = frozenset()

    def matches(self, code: int, words: str) -> bool:
        return code in self.codes or (self.words is not None and self.words.search(words) is not None)


def _of(reason: Reason, words: str, remedy: str, *codes: int) -> Signature:
    return Signature(reason, re.compile(words) if words else None, remedy, frozenset(codes))


SIGNATURES = (
    _of(
        EngineReason.MODEL_ACCESS_DENIED,
        r"GatedRepoError|this model is gated|Access to model \S+ is restricted|[Cc]annot access gated repo|a gated repo",
        "accept the model's terms at its hub, and check the token in the Secret that model.credentials names",
    ),
    _of(
        EngineReason.MODEL_ACCESS_DENIED,
        r"\b40[13] Client Error|HTTP(?:Error|StatusError)?:? (?:status )?40[13]\b|\b401 Unauthorized|\b403 Forbidden"
        r"|RepositoryNotFoundError|has no such model for us|Invalid credentials in Authorization header"
        r"|InvalidAccessKeyId|SignatureDoesNotMatch|\(AccessDenied\)|<Code>AccessDenied</Code>",
        "check model.uri, and the token in the Secret that model.credentials names",
    ),
    _of(
        EngineReason.MODEL_NOT_FOUND,
        r"RevisionNotFoundError|EntryNotFoundError|\b404 Client Error|NoSuchKey\b|NoSuchBucket\b|the repository holds no model",
        "check model.uri and model.revision",
    ),
    _of(
        EngineReason.TLS_UNTRUSTED,
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|x509: certificate signed by unknown authority",
        "mount the company's CA by podTemplate and set SSL_CERT_FILE in engine.env",
    ),
    _of(
        EngineReason.MODEL_UNREACHABLE,
        r"Name or service not known|Temporary failure in name resolution|No address associated with hostname"
        r"|Max retries exceeded with url|ConnectTimeout|ConnectError\b|Network is unreachable|LocalEntryNotFoundError"
        r"|couldn't connect to '?https?://",
        "let the pod out to where the model is (egress policy, HTTPS_PROXY or HF_ENDPOINT in engine.env)",
    ),
    _of(
        EngineReason.GPU_UNAVAILABLE,
        r"no usable GPU: |No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver version is insufficient|no CUDA-capable device"
        r"|libcuda\.so\.1: cannot open shared object|Driver/library version mismatch|Failed to infer device type"
        r"|NVML(?:Error)?[_ ]?(?:Shared)?Library ?Not ?Found|no NVIDIA (?:driver|GPU)",
        "check the node: nvidia-smi there, the device plugin's pod, and podTemplate.spec.runtimeClassName",
    ),
    _of(
        EngineReason.GPU_UNSUPPORTED,
        r"no kernel image is available for execution on the device|only supported on GPUs with compute capability"
        r"|requires (?:GPUs? with )?compute capability|PTX was compiled with an unsupported toolchain",
        "name newer GPUs in accelerator.products, or an image that was built for these",
    ),
    _of(
        EngineReason.OUT_OF_MEMORY,
        r"torch\.(?:cuda\.)?OutOfMemoryError|CUDA out of memory|HIP out of memory|CUDA_ERROR_OUT_OF_MEMORY"
        r"|cudaErrorMemoryAllocation|No available memory for the cache blocks|larger than the maximum number of tokens "
        r"that can be stored in KV cache|(?:GPU|device) (?:is |ran )?out of memory",
        "lower engine.gpuMemoryUtilization or engine.maxModelLen, or use more or larger GPUs",
    ),
    _of(
        EngineReason.OUT_OF_MEMORY,
        r"\bMemoryError\b|std::bad_alloc|Cannot allocate memory|out of memory",
        "raise resources.limits.memory or engine.tensorParallelSize, or lower engine.maxModelLen",
    ),
    _of(
        StorageReason.DISK_FULL,
        r"No space left on device|\bENOSPC\b|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]",
        "raise cache.size, or give the node more ephemeral storage",
    ),
    _of(
        EngineReason.SHARED_MEMORY_FULL,
        r"Bus error|No space left on device.*/dev/shm|/dev/shm.*No space left",
        "raise resources.sharedMemory",
        135,
    ),
    _of(
        EngineReason.WRONG_ARCHITECTURE,
        r"exec format error|Illegal instruction|no matching manifest for linux/",
        "name an image for the nodes' CPUs, or choose nodes by podTemplate.spec.nodeSelector (kubernetes.io/arch)",
        132,
    ),
    _of(
        EngineReason.IMAGE_UNSUITABLE,
        r"executable file not found in \$PATH|no such file or directory: unknown|StartError",
        "check that engine.image is an image of engine.runtime",
        127,
    ),
    _of(
        EngineReason.PERMISSION_DENIED,
        r"PermissionError|\[Errno 13\] Permission denied|\[Errno 30\] Read-only file system",
        "see podTemplate.spec.securityContext (fsGroup owns the volumes), and who owns the files on the claim",
        126,
    ),
    _of(
        EngineReason.GPU_COMMUNICATION,
        r"ncclSystemError|ncclUnhandledCudaError|NCCL error|ncclRemoteError",
        "raise resources.sharedMemory, and check the node's GPU topology (NCCL_DEBUG=INFO in engine.env)",
    ),
    _of(
        EngineReason.REFUSED,
        r"unrecognized arguments|invalid choice: |does not recognize this architecture|Model architectures .* (?:are )?not "
        r"supported|is not supported by (?:this|the) (?:engine|executor)",
        "fix the field of the spec that it names, or use an image that supports it",
        2,
    ),
)


def signature_of(code: int, words: str) -> Signature | None:
    """The first kind of failure that fits."""
    return next((each for each in SIGNATURES if each.matches(code, words)), None)
