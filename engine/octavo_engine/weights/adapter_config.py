"""Reads `adapter_config.json`, as PEFT writes it: the rank and the scale of each module, and what can't be served."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.json_files import read_object

MERGE = "merge the adapter into its model (PEFT's merge_and_unload) and serve that"
MOST_RANK = 1 << 14
# A key of rank_pattern or alpha_pattern. Python's patterns can take for ever, with all threads of the process waiting: names,
# a few runs of characters and a few choices of names are matched, which is what PEFT's users write.
MOST_PATTERN, MOST_RUNS, MOST_CHOICES = 200, 3, 3
RUN, CHOICE = r"(?:\\d|\[[\d-]+\]|\.)[+*]", r"\((?:\?:)?\w+(?:\|\w+)*\)"
PATTERN = re.compile(rf"\^?(?:{RUN}|{CHOICE}|[\w.|-]|\\[.d]|\[[\d-]+\])+\$?")
# What changes more than the product of a weight, where it says anything but its default.
OTHER_METHODS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "modules_to_save": "whole modules that were trained beside the adapter (modules_to_save)",
    "trainable_token_indices": "embeddings of tokens (trainable_token_indices)",
    "lora_bias": "biases (lora_bias)",
    "target_parameters": "parameters that are no modules, such as experts (target_parameters)",
    "layer_replication": "replicated layers (layer_replication)",
    "alora_invocation_tokens": "an activation by tokens (alora_invocation_tokens)",
    "arrow_config": "a router over adapters (arrow_config)",
}
CHANGED_BASES = ("pissa", "olora", "corda")  # methods of initialization that change the model's own weights


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """The settings of an adapter's modules, by their plain names."""

    path: Path
    rank: int
    alpha: float
    root_scale: bool  # the scale is alpha / sqrt(rank) (rsLoRA)
    targets: frozenset[str] | None  # names, or ends of names, of the modules; None: a pattern, or all linear ones
    ranks: Mapping[str, float] = field(default_factory=dict)  # by patterns of names
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank of a module."""
        return int(_matching(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """The factor on a module's product."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.root_scale else rank)

    def is_target(self, module: str) -> bool:
        """True if `target_modules` has the module."""
        return self.targets is None or any(module == name or module.endswith(f".{name}") for name in self.targets)


def read_adapter_config(path: Path) -> AdapterSettings:
    """The settings in `path`.

    Raises:
        ModelLoadError: it isn't a LoRA's, contradicts itself, or asks for what is not served; names the field.
    """
    values = read_object(path)
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ModelLoadError(f"{path}: peft_type is {kind!r}; low-rank adapters are served, whose peft_type is LORA")
    for name, what in OTHER_METHODS.items():
        if values.get(name):
            raise ModelLoadError(f"{path}: the adapter has {what}, which is not served; {MERGE}")
    bias = values.get("bias", "none")
    if bias != "none":
        raise ModelLoadError(f"{path}: bias is {bias!r}, and trained biases are not served; {MERGE}")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASES):
        raise ModelLoadError(
            f"{path}: init_lora_weights is {start!r}, which changes the model's own weights; convert the adapter when it is "
            "saved (path_initial_model_for_weight_conversion), or merge it into its model and serve that"
        )
    rank = _number(path, values, "r")
    if rank != int(rank) or not 1 <= rank <= MOST_RANK:
        _refuse(path, "r", values["r"], f"it must be a rank from 1 to {MOST_RANK}")
    return AdapterSettings(
        path,
        int(rank),
        _number(path, values, "lora_alpha"),
        bool(values.get("use_rslora")),
        _targets(path, values.get("target_modules")),
        _patterns(path, values, "rank_pattern", whole=True),
        _patterns(path, values, "alpha_pattern"),
    )


def _targets(path: Path, value: Any) -> frozenset[str] | None:
    """The names in `target_modules`; a text is a pattern that PEFT has already matched, or all linear modules."""
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        _refuse(path, "target_modules", value, "it must be a list of modules, a pattern of them, or all-linear")
    return frozenset(value)


def _patterns(path: Path, values: Mapping[str, Any], name: str, *, whole: bool = False) -> dict[str, float]:
    found = values.get(name) or {}
    if not isinstance(found, dict):
        _refuse(path, name, found, "it must map names of modules to numbers")
    for pattern, number in found.items():
        if not _is_number(number) or (whole and (number != int(number) or not 1 <= number <= MOST_RANK)):
            _refuse(path, f"{name}[{pattern[:40]!r}]", number, f"it must be a {'rank' if whole else 'finite number'}")
        involved = len(re.findall(RUN, pattern)) > MOST_RUNS or len(re.findall(CHOICE, pattern)) > MOST_CHOICES
        if len(pattern) > MOST_PATTERN or involved or not PATTERN.fullmatch(pattern):
            _refuse(path, name, pattern[:40], "the pattern is too involved: write the modules' names out")
        try:
            re.compile(_whole(pattern))
        except re.error as error:
            raise ModelLoadError(
                f"{path}: {name} has {pattern[:40]!r}, which is no pattern: {error}; correct it"
            ) from error
    return found


def _number(path: Path, values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if not _is_number(value):
        _refuse(path, name, value, "it must be a number")
    return float(value)


def _is_number(value: Any) -> TypeGuard[float]:
    """True if `value` is a finite number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _refuse(path: Path, name: str, value: Any, rule: str) -> NoReturn:
    shown = "a huge number" if isinstance(value, int) and value.bit_length() > 1000 else repr(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    raise ModelLoadError(f"{path}: {name} is {shown}; {rule}: correct it, or fetch the adapter again")


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The number of the first pattern that the module's name ends in, as PEFT looks it up."""
    for pattern, number in patterns.items():
        if re.match(_whole(pattern), module):
            return number
    return default


def _whole(pattern: str) -> str:
    """The pattern of a module's whole name, which ends in `pattern`."""
    return rf"(.*\.)?({pattern})$"
