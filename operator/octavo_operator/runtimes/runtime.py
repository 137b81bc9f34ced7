"""The type of a runtime: everything that differs between the engines which `engine.runtime` names.

Owns no engine's facts: each has a module of its own. Independent of plans and Kubernetes objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from octavo_models import ModelSpec
from octavo_models.features import Executor
from octavo_operator.api.engine import Engine
from octavo_operator.api.flags import canonical
from octavo_operator.api.observed import Capability
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal

METRICS_PATH = "/metrics"  # the same for every runtime: a pod is scraped without its manifest

Version = tuple[int, int, int]
Check = Callable[[Engine, ModelSpec | None, bool], Refusal | None]
"""Engine section, model (None if unknown) and whether there are GPUs, to why one field cannot be taken as it is."""


@dataclass(frozen=True, slots=True)
class Start:
    """The resolved values that a runtime's arguments are rendered from."""

    engine: Engine
    served_names: tuple[str, ...]
    revision: str | None
    file: str | None
    max_model_len: int | Literal["auto"] | None
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_bytes: int | None
    """Size of the KV cache on a CPU; None on GPUs, where `gpuMemoryUtilization` decides."""
    on_gpu: bool
    drain_s: int


@dataclass(frozen=True, slots=True)
class Target:
    """The served model and its place: the part of the command line that differs between a pod and a local process."""

    model: str
    host: str | None
    """Address to listen on; None: every address, because a pod's may be IPv4, IPv6 or both."""
    port: int
    chat_template: str | None
    """Path or text of the template, or the name of a built-in one."""


@dataclass(frozen=True, slots=True)
class Variables:
    """Names of environment variables that the engine reads."""

    api_key: str
    api_key_file: str | None = None
    """Names a file with the keys that is read again when it changes; None where the engine has no such variable."""
    hub_cache: str = "HF_HOME"
    hub_token: str = "HF_TOKEN"  # noqa: S105 — a variable's name
    hub_offline: str = "HF_HUB_OFFLINE"
    model_cache: str = "OCTAVO_CACHE"
    """Cache of what does not come from the hub; the download Job of every runtime reads it."""


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Names of the engine's metrics, each with its former names behind it."""

    waiting: tuple[str, ...]
    running: tuple[str, ...]
    kv_usage: tuple[str, ...]
    generated: tuple[str, ...]
    """Counter of generated tokens."""


def adapted(metric: str) -> str:
    """A metric's name as adapters of Prometheus write it: `vllm_num_requests_waiting`."""
    return metric.replace(":", "_")


@dataclass(frozen=True, slots=True)
class Runtime:
    """One engine. Memory facts are bytes."""

    name: str
    images: Mapping[str, str]
    """Vendor of the accelerator to the key of `Settings.images`."""
    command: tuple[str, ...]
    arguments: Callable[[Start], tuple[str, ...]]
    """Everything that the plan decides, but for the target."""
    target: Callable[[Target], tuple[str, ...]]
    variables: Variables
    health: str
    """Path of the probes."""
    metrics: MetricNames
    reserved: Mapping[str, str]
    """Flags that `engine.args` may not set, each with the field that replaces it."""
    schemes: frozenset[str]
    """Schemes of `model.uri` that it serves; it fetches by itself what is not on a volume."""
    runs_locally: bool
    """`octavo up` starts it."""
    runs_download: bool
    """True if its image holds `octavo_engine.fetch`, which the download Job runs."""
    executors: Mapping[str, tuple[Executor, ...]]
    """Executors of `octavo_models.features` by the vendor of the accelerator; empty where the engine has others."""
    capability: Capability
    """Compute capability of the oldest GPU that it runs on."""
    takes: frozenset[str]
    """Fields of the engine section that it takes with any value that the CRD admits."""
    checks: Mapping[str, Check]
    """The other fields, in the order in which they are checked."""
    swaps: bool
    """Preempted sequences may go to host memory."""
    widens: bool
    """dtype: auto keeps float32 weights as they are on a CPU; else they become bfloat16."""
    serves_vision: bool
    """Serves a model's vision tower as well."""
    tokens_on_gpu: bool
    """Keeps the token ids of all sequences in GPU memory."""
    bounds_requests: bool
    """The bounds of its API server are known: `planner.request_memory`."""
    watches_start: bool
    """A start that makes no progress ends by itself (`--start-timeout`)."""
    graph_bytes: int
    """Taken from the KV cache's share for CUDA graphs."""
    cpu_bytes: int
    """Memory of a process on a CPU, before the model."""
    quantizes_on_load: frozenset[str] = frozenset()
    """Methods of `engine.quantization` that halve the matrices of a plain checkpoint."""
    reads_flags_of_file: bool = False
    """Takes flags of a file (`--config`)."""
    serves_tls: bool = False
    """Serves HTTPS by vLLM's flags (`--ssl-certfile`, `--ssl-keyfile`)."""
    flags_since: Mapping[str, Version] = field(default_factory=dict)
    """Version of the engine that brought each flag; empty where the engine is not released with the operator."""
    templates_since: Mapping[str, Version] = field(default_factory=dict)
    """Version of the engine that brought each built-in chat template; empty where it has none."""

    def accepts(self, name: str, engine: Engine, spec: ModelSpec | None, *, on_gpu: bool) -> Refusal | None:
        """The reason why the engine section's field `name` cannot be taken as it is; None where it can.

        Raises KeyError for a field that is in neither `takes` nor `checks`.
        """
        if name == "args":
            return self._reserved_argument(engine)
        return None if name in self.takes else self.checks[name](engine, spec, on_gpu)

    def refusal(self, engine: Engine, spec: ModelSpec | None, *, on_gpu: bool) -> Refusal | None:
        """The first field that it does not take; None where it takes all of them."""
        refusals = (self.accepts(name, engine, spec, on_gpu=on_gpu) for name in (*self.checks, "args"))
        return next((each for each in refusals if each is not None), None)

    def template_refusal(self, name: str | None) -> Refusal | None:
        """The reason why the built-in chat template of this name cannot be taken; None where it can, or where none is
        named.
        """
        if name is None or name in self.templates_since:
            return None
        message = f"model.chatTemplate.name {name}: {self.name} has no built-in chat templates"
        remedy = "put the template into a ConfigMap (model.chatTemplate.configMapName and key), or set engine.runtime: octavo"
        return Refusal(SpecReason.CHAT_TEMPLATE, message, remedy)

    def _reserved_argument(self, engine: Engine) -> Refusal | None:
        """The API server refuses the flags that it has in its rules (`api.flags`); a runtime may have others."""
        for index, argument in enumerate(engine.args):
            if (flag := canonical(argument)) in self.reserved:
                message = f"engine.args[{index}]: {flag} repeats {self.reserved[flag]}"
                return Refusal(SpecReason.ARGUMENT, message, f"remove it, and set {self.reserved[flag]}")
        return None

    def oldest_gpu(self, engine: Engine) -> Capability:
        """The compute capability below which it would not start."""
        return max(self.capability, (8, 0)) if engine.dtype == "bfloat16" else self.capability

    def kv_dtype(self, engine: Engine, spec: ModelSpec | None, *, on_gpu: bool) -> str:
        """The type of the KV cache where the manifest leaves it open: that of the numbers which the model runs in, but for
        float16 on a CPU.
        """
        dtype: str = engine.dtype
        if dtype == "auto":
            dtype = "bfloat16" if spec is None else spec.dtype
            whole = self.keeps_float32(on_gpu=on_gpu) and spec is not None and spec.quantization is None
            if dtype == "float32" and not whole:
                dtype = "bfloat16"
        return "bfloat16" if dtype == "float16" and not on_gpu else dtype

    def keeps_float32(self, *, on_gpu: bool) -> bool:
        """True if `dtype: auto` runs a plain float32 checkpoint in float32: GPUs are not made for it."""
        return self.widens and not on_gpu


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A runtime that the CRD names and this version of the operator does not run."""

    name: str
