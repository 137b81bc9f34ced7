"""`spec.engine`: what runs the model, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import MAX_ITEMS, Count, DataKey, EnvName, ObjectName, Strict, Verbatim
from octavo_operator.api.flags import ARGUMENT_RULES
from octavo_operator.api.quantity import Quantity

Argument = Annotated[
    str, Field(max_length=2048, json_schema_extra={"x-kubernetes-validations": [dict(rule) for rule in ARGUMENT_RULES]})
]


class Image(Strict):
    """The container image; what is left out comes from the operator's own settings."""

    repository: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s@]+$")] | None = None
    """Repository, without tag or digest."""
    tag: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,127}$")] | None = None
    """Tag."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest, sha256:…; it wins over the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """The kubelet's policy for pulling the image."""
    pull_secrets: Annotated[list[ObjectName], Field(max_length=MAX_ITEMS)] = []
    """Names of the Secrets with which the image is pulled."""


class KeySelector(Strict):
    """One key of a Secret or a ConfigMap, as Kubernetes spells it."""

    name: ObjectName
    """Name of the object."""
    key: DataKey
    """Key within it."""
    optional: bool | None = None
    """Lets the pod start without it."""


class EnvSource(Strict):
    """The source of its value, in place of `value`; exactly one of these."""

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""
    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""
    field_ref: Verbatim | None = None
    """A field of the pod, verbatim."""
    resource_field_ref: Verbatim | None = None
    """A resource of the container, verbatim."""


class EnvVar(Strict):
    """An environment variable of the engine."""

    name: EnvName
    """Name of the variable."""
    value: Annotated[str, Field(max_length=131072)] | None = None
    """The value itself."""
    value_from: EnvSource | None = None
    """The source of its value, in place of `value`."""


class Engine(Strict):
    """The engine and its limits. Fields that are left out follow the accelerator and the model."""

    runtime: Literal["octavo", "vllm", "sglang", "tgi", "tensorrt-llm"] = "octavo"
    """The engine that runs the model."""
    image: Image | None = None
    """Container image in place of the operator's default."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that each layer is split across. It must divide the model's attention heads."""
    pipeline_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """Stages that the layers are split into, each with its own GPUs."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Type of the weights in memory; auto keeps what the checkpoint holds, quantized weights included."""
    max_model_len: Count | None = None
    """Longest sequence in tokens, prompt and answer together; by default the model's own limit."""
    max_num_seqs: Count | None = None
    """Sequences that run at once; by default 256 on GPUs and 128 on a CPU."""
    max_num_batched_tokens: Count | None = None
    """Tokens computed in one step; by default 8192 on GPUs and 2048 on a CPU."""
    min_concurrency: Count = 1
    """Sequences of maxModelLen that the KV cache must hold; fewer than that do not fit."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine uses for weights, KV cache and overheads together."""
    block_size: Literal[16, 32, 64, 128] = 16
    """Tokens per block of the KV cache."""
    swap_space: Quantity = Quantity("4Gi")
    """Host memory a GPU for the KV blocks of preempted sequences; octavo on GPUs alone has it."""
    enforce_eager: bool = False
    """Run without CUDA graphs: for debugging, slower."""
    prefix_caching: bool = True
    """Reuse the KV blocks of prompts that begin alike."""
    quantization: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")] | None = None
    """Method by which the checkpoint is quantized, where the checkpoint does not name it; vllm's, or gguf."""
    kv_cache_dtype: Literal["auto", "float16", "bfloat16", "float32", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Type of the KV cache's elements; octavo's are bfloat16, or float32 under dtype: float32."""
    args: Annotated[list[Argument], Field(max_length=64)] = []
    """Further arguments of the engine, verbatim. One that repeats a field of this API is refused."""
    env: Annotated[list[EnvVar], Field(max_length=MAX_ITEMS)] = []
    """Further environment variables of the engine."""
