"""The engine's model, names, arguments and environment, from the manifest and what was planned.

How a runtime spells them is its own: `runtimes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from octavo_operator.api.uri import ModelUri
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.plan import CachePlan, Env, Hardware, Limits
from octavo_operator.runtimes import runtime_of
from octavo_operator.runtimes.runtime import Start
from octavo_operator.settings import Settings

PORT = 8000
CACHE_PATH = "/var/cache/octavo"
CLAIM_PATH = "/models"
KEYS_PATH = "/etc/octavo/api-keys/keys"
TEMPLATE_PATH = "/etc/octavo/chat-template/template.jinja"


def model_argument(uri: ModelUri) -> str:
    """The model as the engine takes it: hub names plain, volumes and files as paths."""
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
    """Names that clients may request; the hub's own comes first, so that scripts written for it keep working."""
    model = service.spec.model
    if model.served_names:
        return tuple(model.served_names)
    names = [model.uri.rest] if model.uri.scheme == "hf" else []
    return tuple(dict.fromkeys([*names, service.metadata.name]))


def arguments(service: LLMService, limits: Limits, hardware: Hardware, drain: int) -> tuple[str, ...]:
    """Everything but the manifest's own arguments and the target (see `EngineProcess.line`)."""
    model, engine = service.spec.model, service.spec.engine
    start = Start(
        engine=engine,
        served_names=served_names(service),
        revision=model.revision,
        file=model.file,
        max_model_len=_max_model_len(engine.max_model_len, limits, hardware),
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        kv_cache_bytes=limits.kv_cache_bytes or None,  # a model that pools has none
        on_gpu=bool(hardware.gpus),
        drain_s=drain,
    )
    return runtime_of(engine).arguments(start)


def _max_model_len(given: int | None, limits: Limits, hardware: Hardware) -> int | Literal["auto"] | None:
    """The manifest's; or what was found to fit. On GPUs that the manifest does not name, each engine finds it itself."""
    if given is not None or not limits.shortened:
        return given
    return limits.max_model_len if hardware.products or not hardware.gpus else "auto"


def environment(service: LLMService, cache: CachePlan | None, settings: Settings) -> tuple[Env, ...]:
    """Secrets by reference, cache folders, the manifest's own variables, which win, and the installation's last.

    A claim that exists has the hub's cache at its root, as one does that was mounted at ~/.cache/huggingface. What a
    Job has downloaded is whole: nothing of the hub is asked for then, and nothing more fills the claim.
    """
    model, auth, engine = service.spec.model, service.spec.auth, service.spec.engine
    names = runtime_of(engine).variables
    given = [_given(variable.model_dump(by_alias=True, exclude_none=True)) for variable in engine.env]
    exists = cache is not None and not cache.create
    own = [
        Env(names.hub_cache, CACHE_PATH if exists else f"{CACHE_PATH}/huggingface"),
        Env(names.model_cache, CACHE_PATH),
    ]
    if cache is not None and cache.preload and model.uri.scheme == "hf":
        own.append(Env(names.hub_offline, "1"))
    if model.credentials is not None and model.uri.scheme == "hf":
        own.append(_from_secret(names.hub_token, model.credentials.secret_name, model.credentials.key))
    if auth.api_keys is not None:
        # The file follows the Secret. The variable is for engines that are older than the file.
        own.append(_from_secret(names.api_key, auth.api_keys.secret_name, auth.api_keys.key))
        if mounts_keys(service) and names.api_key_file:
            own.append(Env(names.api_key_file, KEYS_PATH))
    result = [*_without(own, given), *given]
    installed = [Env(name, value) for name, value in sorted(settings.engine_env.items())]
    return (*_without(installed, result), *result)


def mounts_keys(service: LLMService) -> bool:
    """True if the engine reads its API keys from a file: a variable of the manifest's own comes first."""
    engine = service.spec.engine
    names, given = runtime_of(engine).variables, {variable.name for variable in engine.env}
    return service.spec.auth.api_keys is not None and bool(names.api_key_file) and names.api_key not in given


def _without(variables: Iterable[Env], given: Iterable[Env]) -> list[Env]:
    """The variables that `given` does not set."""
    names = {variable.name for variable in given}
    return [variable for variable in variables if variable.name not in names]


def _from_secret(name: str, secret: str, key: str) -> Env:
    return Env(name, value_from={"secretKeyRef": {"name": secret, "key": key}})


def _given(variable: dict[str, Any]) -> Env:
    return Env(variable["name"], variable.get("value"), variable.get("valueFrom"))
