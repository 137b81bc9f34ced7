"""The flags of low-rank adapters (LoRA), in vLLM's spelling."""

from __future__ import annotations

import argparse
import json
from typing import Any

from octavo_engine.cli.flag_values import at_least
from octavo_engine.config import AdapterConfig, AdapterModule
from octavo_engine.errors import ConfigError

SWITCH = argparse.BooleanOptionalAction
KEPT_AT_RUN_TIME = 8  # adapters that are kept where requests may load them and no number is given
EXAMPLE = 'write name=path, or {"name": …, "path": …, "base_model_name": …}'


def add_adapter_flags(group: argparse._ArgumentGroup) -> None:
    """Add them to `group`; `adapter_config` reads them."""
    add = group.add_argument
    add("--enable-lora", action=SWITCH, help="serve low-rank adapters; default: on with --lora-modules, else off")
    add(
        "--lora-modules",
        nargs="+",
        type=_modules,
        metavar="NAME=PATH",
        help="adapters that are served from the start: name=path, or JSON objects with name, path and base_model_name; a path "
        "is a folder, org/name, hf://… or package://…",
    )
    add("--max-loras", type=at_least(1), default=1, metavar="N", help="different adapters in one step; default: 1")
    add("--max-lora-rank", type=at_least(1), default=16, metavar="RANK", help="highest rank of an adapter; default: 16")
    add(
        "--max-cpu-loras",
        type=at_least(1),
        metavar="N",
        help="adapters that are loaded at once; default: as many as --max-loras and --lora-modules ask for, and 8 at least where "
        "requests may load them",
    )
    add(
        "--enable-runtime-lora-updates",
        action=SWITCH,
        default=False,
        help="serve /v1/load_lora_adapter and /v1/unload_lora_adapter, by which any client with access has the server read "
        "folders and repositories; or VLLM_ALLOW_RUNTIME_LORA_UPDATING=1; default: off",
    )


def adapter_config(options: argparse.Namespace, served_model_names: tuple[str, ...]) -> AdapterConfig:
    """The part of the configuration that these flags make.

    Raises:
        ConfigError: two flags contradict each other, or two names are the same.
    """
    modules = tuple(module for group in options.lora_modules or () for module in group)
    if modules and options.enable_lora is False:
        raise ConfigError("--lora-modules names adapters, and --no-enable-lora says that there are none: leave one out")
    names = [*served_model_names, *(module.name for module in modules)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and any(module.name == twice for module in modules):
        raise ConfigError(f"--lora-modules: the name {twice} is given twice; choose another one")
    most, kept = options.max_loras, options.max_cpu_loras
    if kept is not None and kept < most:
        raise ConfigError(
            f"--max-cpu-loras {kept} is less than --max-loras {most}: raise the first or lower the second"
        )
    if kept is not None and kept < len(modules):
        raise ConfigError(
            f"--max-cpu-loras {kept} is less than the {len(modules)} adapters of --lora-modules: raise it"
        )
    at_run_time = KEPT_AT_RUN_TIME if options.enable_runtime_lora_updates else 0
    return AdapterConfig(
        enabled=bool(options.enable_lora or modules),
        modules=modules,
        max_loras=most,
        max_lora_rank=options.max_lora_rank,
        max_cpu_loras=kept or max(most, len(modules), at_run_time),
        runtime_updates=options.enable_runtime_lora_updates,
    )


def _modules(text: str) -> list[AdapterModule]:
    """One value: name=path, a JSON object, or a JSON list of objects."""
    if not text.lstrip().startswith(("{", "[")):
        name, _, path = text.partition("=")
        return [_module({"name": name, "path": path}, text)]
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}; {EXAMPLE}") from error
    return [_module(item, text) for item in (value if isinstance(value, list) else [value])]


def _module(value: Any, text: str) -> AdapterModule:
    known = {"name", "path", "base_model_name"}
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), str) and value[key] for key in ("name", "path")
    ):
        raise argparse.ArgumentTypeError(f"{text!r} has no name or no path; {EXAMPLE}")
    others = sorted(value.keys() - known)
    if others:
        raise argparse.ArgumentTypeError(f"{text!r} has {others[0]!r}, which is not served; {EXAMPLE}")
    base = value.get("base_model_name")
    if base is not None and not isinstance(base, str):
        raise argparse.ArgumentTypeError(f"{text!r}: base_model_name is no text; {EXAMPLE}")
    return AdapterModule(name=value["name"], path=value["path"], base_model_name=base or None)
