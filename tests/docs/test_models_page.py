"""docs/reference/models.md: what is described, by what it is compared with transformers, and what runs it.

The rows come from the models and from the rules that the comparisons go by, so that what it lists is what they hold.
"""

from __future__ import annotations

import re
from functools import cache

from families import FAMILIES, Family
from octavo_testing import tiny_encoders
from octavo_testing.compared_logits import BFLOAT16_FACTOR, FULL, TOLERANCE
from octavo_testing.golden import assert_golden
from octavo_testing.operator_runs import ROOT
from octavo_testing.tiny_models import KINDS, config_json

from octavo_models import ModelSpec, from_hf_config
from octavo_models.architecture import Architecture
from octavo_models.architectures import ALL, BY_HF_CLASS
from octavo_models.features import unsupported
from octavo_models.purpose import language_model_of
from octavo_models.sharding import obstacle

PAGE = ROOT / "docs/reference/models.md"
SURVEY = ROOT / "docs/reference/models-through-transformers.md"
INSIDE = {
    "Qwen3VLMoeTextForCausalLM": ["qwen 3 with experts and images"]
}  # text halves that have no model of their own
HEAD = f"""# Models

The architectures that Octavo describes, by the name of their class in a checkpoint's `config.json`, and what runs them. Of
each there are small models in which every parameter is random, norms and biases too, made by transformers or, for families
that it does not have, by a short reference (`octavo_testing.tiny_models`). ✓ is what a test holds for all of them:

- *native* (CPU), *torch* (GPU): the names and shapes of all tensors, and log-probabilities in float32 that are the
  reference's to {TOLERANCE:g} of the spread of a row's logits (from their mean to the largest): prompts of {FULL.prompts[0]} to {FULL.prompts[-1]} tokens,
  prefilled in chunks, beside each other, decoded together, and begun again from the prefix cache. In bfloat16 they are at
  most {BFLOAT16_FACTOR:g} times as far from float32 as the reference's own bfloat16 (`tests/correctness/test_architectures.py`).
- *kernels*: the torch executor over Triton's kernels, interpreted on a CPU, on shorter prompts (the same file).
- *2 ranks*: the torch executor with `--tensor-parallel-size 2` (`tests/parallel/test_architectures_over_ranks.py`). The
  native executor refuses more than one rank.

The bytes of weights and KV blocks that the operator plans for each are those that executors and ranks load
(`tests/contract/test_loaded_bytes.py`).

Encoders make embeddings or scores in place of text, and so do decoders of a class without a head of tokens
(`…Model`, `…ForSequenceClassification`), of a folder that sentence-transformers has written (`modules.json`), or with
`--runner pooling`. Their vectors are compared to 1e-4 (`tests/correctness/test_encoders.py`), on one rank.

Others run through `transformers`, more slowly: [models-through-transformers.md](models-through-transformers.md) lists them.

Written by `tests/docs/test_models_page.py` (`OCTAVO_UPDATE_GOLDEN=1`).

| classes | GGUF | native | torch | kernels | 2 ranks | compared as |
|-|-|-|-|-|-|-|
"""
USE = """
## By use

The families that people serve, the most used first. *Described* ones have a row above; the others run through transformers,
on the torch executor, or do not run yet.

| family | described | through transformers | not yet |
|-|-|-|-|
"""


@cache
def specs() -> dict[str, ModelSpec]:
    """The description of every small model."""
    return {kind: from_hf_config(config_json(kind)) for kind in KINDS}


def test_the_page_lists_every_architecture_with_what_runs_it():
    kinds = _by_class({kind: spec for kind, spec in specs().items() if spec.pooling is None})
    pooled = _by_class({kind: from_hf_config(tiny_encoders.config_of(kind)) for kind in tiny_encoders.MODELS})
    lines = []
    for architecture in sorted(ALL, key=lambda each: each.hf_classes[0].lower()):
        name = architecture.hf_classes[0]
        found = kinds.get(name) or {kind: specs()[kind] for kind in INSIDE.get(name, [])}
        assert found or name in pooled, f"{name} has no model in octavo_testing.tiny_models"
        lines.append(_row(architecture, found, pooled.get(name, {})))
    lines.append(USE)
    lines += map(_family, FAMILIES)
    assert_golden(HEAD + "".join(lines), PAGE)


def _by_class(models: dict[str, ModelSpec]) -> dict[str, dict[str, ModelSpec]]:
    """Models by the first class of their architecture."""
    found: dict[str, dict[str, ModelSpec]] = {}
    for kind, spec in models.items():
        own = spec.architecture in BY_HF_CLASS
        name = spec.architecture if own else language_model_of(spec.architecture, BY_HF_CLASS)
        found.setdefault(BY_HF_CLASS[name].hf_classes[0], {})[kind] = spec
    return found


def test_as_many_architectures_run_as_were_promised():
    """45 described ones on both executors; a hundred kinds with those that transformers computes."""
    whole = [spec for spec in specs().values() if not (unsupported(spec, "native") or unsupported(spec, "torch"))]
    assert len({BY_HF_CLASS[spec.architecture].hf_classes[0] for spec in whole}) >= 45
    stated = re.search(r"with the \d+ whose architecture Octavo describes itself, (\d+) run", SURVEY.read_text())
    assert stated is not None
    assert int(stated[1]) >= 100


def test_a_family_that_does_not_run_has_a_reason():
    for family in FAMILIES:
        _, _, missing = _ways(family)
        assert not missing or family.unless_served, (
            f"{family.names}: {', '.join(missing)} do not run, and no reason is given"
        )


def _row(architecture: Architecture, found: dict[str, ModelSpec], pooled: dict[str, ModelSpec]) -> str:
    models = [*found.values(), *pooled.values()]
    native, torch = ([unsupported(spec, executor) for spec in models] for executor in ("native", "torch"))
    undivided = [obstacle(spec, 2, 1) for spec in found.values()]
    assert not found or not all(undivided), f"{architecture.hf_classes[0]}: no model in tiny_models divides by two"
    cells = [
        ", ".join(f"`{name}`" for name in architecture.hf_classes),
        f"`{architecture.gguf_name}`" if architecture.gguf_name else "",
        _verdict(native),
        _verdict(torch),
        _verdict(torch) if found else "",
        _verdict(torch) if found else "",
        ", ".join([*found, *pooled]),
    ]
    return f"| {' | '.join(cells)} |\n"


def _verdict(lacking: list[str | None]) -> str:
    """The verdict over all compared variants of an architecture."""
    return "; ".join(dict.fromkeys(f"lacks {each}" for each in lacking if each is not None)) or "✓"


def _family(family: Family) -> str:
    described, computed, missing = _ways(family)
    not_yet = []
    if missing:
        not_yet.append(f"{_names(missing)}: {family.unless_served}")
    if family.formats:
        not_yet.append(f"weights in {family.formats}")
    return f"| {family.names} | {_names(described)} | {_names(computed)} | {'; '.join(not_yet)} |\n"


def _names(classes: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in classes)


def _ways(family: Family) -> tuple[list[str], list[str], list[str]]:
    """The classes that are described, that transformers computes, and the others."""
    described = [name for name in family.classes if name in BY_HF_CLASS]
    computed = [name for name in family.classes if name not in described and name in _computed()]
    return described, computed, [name for name in family.classes if name not in {*described, *computed}]


@cache
def _computed() -> set[str]:
    """Classes that the survey has run through transformers."""
    return set(re.findall(r"^\| \S+ \| (\w+) \|\s*\w* \| yes \|$", SURVEY.read_text(), re.MULTILINE))
