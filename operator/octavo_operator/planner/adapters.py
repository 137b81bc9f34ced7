"""The memory of low-rank adapters (LoRA), by the flags in `engine.args`: no field of the manifest repeats them.

The engines' own arithmetic: a GPU has a place of the highest rank for each adapter of one step (`--max-loras`); a CPU keeps
as many as are loaded (`--max-cpu-loras`).
"""

from __future__ import annotations

import re

from octavo_models import ModelSpec
from octavo_models.adapter_modules import adapter_elements
from octavo_operator.api.engine import Engine
from octavo_operator.api.flags import canonical

ENABLE, MODULES, RUN_TIME = "--enable-lora", "--lora-modules", "--enable-runtime-lora-updates"
AT_ONCE, KEPT, RANK = "--max-loras", "--max-cpu-loras", "--max-lora-rank"
VARIABLE = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
KEPT_AT_RUN_TIME = 8  # octavo_engine.cli.adapter_flags
DEFAULT_RANK = 16


def adapter_bytes(spec: ModelSpec, engine: Engine, element: int, *, on_gpu: bool) -> int:
    """Bytes of all adapters on a GPU, or in a CPU's memory, with elements of so many bytes; 0 where there are none."""
    given = _values(engine)
    run_time = RUN_TIME in given or any(
        e.name == VARIABLE and (e.value or "").lower() in {"1", "true"} for e in engine.env
    )
    if ENABLE not in given and MODULES not in given:
        return 0
    at_once = _number(given.get(AT_ONCE), 1)
    kept = max(at_once, len(given.get(MODULES, ())), KEPT_AT_RUN_TIME if run_time else 0)
    number = at_once if on_gpu else _number(given.get(KEPT), kept)
    return number * element * adapter_elements(spec, _number(given.get(RANK), DEFAULT_RANK))


def _values(engine: Engine) -> dict[str, list[str]]:
    """Flags with all of their values, the last of each, as argparse takes them."""
    values: dict[str, list[str]] = {}
    last: list[str] = []
    for word in engine.args:
        if word.startswith("--"):
            _, equals, value = word.partition("=")
            last = values[canonical(word)] = [value] if equals else []
        else:
            last.append(word)
    return values


def _number(given: list[str] | None, default: int) -> int:
    """A flag's number; what is no plain number ends the engine's start with its own message, or is of its own spelling."""
    return int(given[0]) if given and re.fullmatch(r"\d{1,6}", given[0]) else default
