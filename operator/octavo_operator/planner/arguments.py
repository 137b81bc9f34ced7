"""The engine's command line and environment, from the typed fields.

vLLM's spelling, which is also ours. What the plan counted with is always said: defaults differ between images. Secrets
never stand on the line: they come by environment.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from octavo_operator.api.uri import ModelUri
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.plan import CachePlan, Env, Hardware, Limits
from octavo_operator.planner.runtimes import runtime_of
from octavo_operator.planner.sizes import GIB
from octavo_operator.settings import Settings

PORT = 8000
CACHE_PATH = "/var/cache/octavo"
CLAIM_PATH = "/models"
OFFLINE = "HF_HUB_OFFLINE"
KEYS_PATH = "/etc/octavo/api-keys/keys"
TEMPLATE_PATH = "/etc/octavo/chat-template/template.jinja"


SERVED_SCHEMES = ("hf", "pvc", "file", "package")


def model_argument(uri: ModelUri) -> str:
    """The model as the engine is told it: hub names plain, volumes and files as paths."""
    match uri.scheme:
        case "hf":
            return uri.rest
        case "pvc":
            path = uri.rest.partition("/")[2].strip("/")
            return f"{CLAIM_PATH}/{path}".rstrip("/")
        case "file":
            return uri.rest
        case _:
            return str(uri)


def served_names(service: LLMService) -> tuple[str, ...]:
    """Names that clients may ask for; the hub's own comes first, so that scripts written for it go on working."""
    model = service.spec.model
    if model.served_names:
        return tuple(model.served_names)
    names = [model.uri.rest] if model.uri.scheme == "hf" else []
    return tuple(dict.fromkeys([*names, service.metadata.name]))


def arguments(service: LLMService, limits: Limits, hardware: Hardware, drain: int) -> tuple[str, ...]:
    """Everything but the manifest's own arguments, the model, the chat template and the address (see `EngineProcess.line`)."""
    model, engine, runtime = service.spec.model, service.spec.engine, runtime_of(service.spec.engine)
    line: list[str] = ["--served-model-name", *served_names(service)]

    def say(flag: str, value: object, unless: object = None) -> None:
        if value is not None and value != unless:
            line.extend([flag, f"{value:g}" if isinstance(value, float) else str(value)])

    say("--revision", model.revision)
    say("--file", model.file if runtime.takes_file else None)
    say("--dtype", engine.dtype, unless="auto")
    say("--quantization", engine.quantization)
    say("--max-model-len", _max_model_len(engine.max_model_len, limits, hardware))
    say("--max-num-seqs", limits.max_num_seqs)
    say("--max-num-batched-tokens", limits.max_num_batched_tokens)
    say("--block-size", engine.block_size)
    if engine.runtime != "octavo":  # whose is the only one that it has
        say("--kv-cache-dtype", engine.kv_cache_dtype, unless="auto")
    if hardware.cards:
        line.extend(runtime.promises)
        say("--gpu-memory-utilization", engine.gpu_memory_utilization)
        say("--tensor-parallel-size", engine.tensor_parallel_size)
        say("--pipeline-parallel-size", engine.pipeline_parallel_size, unless=1)
        if runtime.swaps:
            say("--swap-space", float(engine.swap_space.value / Fraction(GIB)))
    else:
        say("--kv-cache-memory-bytes", limits.kv_cache_bytes)
    if engine.enforce_eager:
        line.append("--enforce-eager")
    if not engine.prefix_caching:
        line.append("--no-enable-prefix-caching")
    say("--shutdown-timeout", drain)
    return tuple(line)


def _max_model_len(given: int | None, limits: Limits, hardware: Hardware) -> int | str | None:
    """The manifest's; or what was found to fit. On GPUs that the manifest does not name, each engine finds it itself."""
    if given is not None or not limits.shortened:
        return given
    return limits.max_model_len if hardware.products or not hardware.cards else "auto"


def environment(service: LLMService, cache: CachePlan | None, settings: Settings) -> tuple[Env, ...]:
    """Secrets by reference, where caches lie, the manifest's own variables, which win, and the installation's last.

    A claim that exists has the hub's cache at its root, as one does that was mounted at ~/.cache/huggingface. What a
    Job has downloaded is whole: nothing of the hub is asked for then, and nothing more fills the claim.
    """
    model, auth, engine = service.spec.model, service.spec.auth, service.spec.engine
    given = [_given(variable.model_dump(by_alias=True, exclude_none=True)) for variable in engine.env]
    names = {variable.name for variable in given}
    exists = cache is not None and not cache.create
    own = [Env("HF_HOME", CACHE_PATH if exists else f"{CACHE_PATH}/huggingface"), Env("OCTAVO_CACHE", CACHE_PATH)]
    if cache is not None and cache.preload and model.uri.scheme == "hf":
        own.append(Env(OFFLINE, "1"))
    if model.credentials is not None and model.uri.scheme == "hf":
        own.append(_from_secret("HF_TOKEN", model.credentials.secret_name, model.credentials.key))
    if auth.api_keys is not None:
        # The file follows the Secret. The variable is for engines that are older than the file.
        own.append(_from_secret(runtime_of(engine).api_key, auth.api_keys.secret_name, auth.api_keys.key))
        if mounts_keys(service) and (file := runtime_of(engine).api_key_file):
            own.append(Env(file, KEYS_PATH))
    result = [*(variable for variable in own if variable.name not in names), *given]
    names = {variable.name for variable in result}
    installed = [Env(name, value) for name, value in sorted(settings.engine_env.items()) if name not in names]
    return (*installed, *result)


def mounts_keys(service: LLMService) -> bool:
    """Whether the engine reads its API keys from a file: a variable of the manifest's own comes first."""
    engine, runtime = service.spec.engine, runtime_of(service.spec.engine)
    given = {variable.name for variable in engine.env}
    return service.spec.auth.api_keys is not None and bool(runtime.api_key_file) and runtime.api_key not in given


def _from_secret(name: str, secret: str, key: str) -> Env:
    return Env(name, value_from={"secretKeyRef": {"name": secret, "key": key}})


def _given(variable: dict[str, Any]) -> Env:
    return Env(variable["name"], variable.get("value"), variable.get("valueFrom"))
