"""docs/reference/models.md: what is described, by what it is compared with transformers, and which executor runs it."""

from __future__ import annotations

import transformers
from octavo_testing import tiny_encoders
from octavo_testing.golden import assert_golden
from octavo_testing.operator_runs import ROOT
from octavo_testing.tiny_models import MODELS, config_of

from octavo_models import from_hf_config
from octavo_models.architectures import ALL, BY_HF_CLASS
from octavo_models.features import unsupported
from octavo_models.purpose import language_model_of

PAGE = ROOT / "docs/reference/models.md"
ELSEWHERE = "tests/correctness/test_remote_code_families.py"  # families that transformers does not have
HEAD = """# Models

The architectures that Octavo describes, by the name of their class in a checkpoint's `config.json`. What `native` (CPU)
and `torch` (GPU) run is ✓; what one lacks is named. Each is compared with transformers on small random models in which
every parameter is random, norms and biases too: the names and shapes of all tensors, and the log-probabilities of prompts
of 1 to 70 tokens that are prefilled in chunks and decoded together (`tests/correctness/test_architectures.py`).

Encoders make embeddings or scores in place of text, and so do decoders of a class without a head of tokens
(`…Model`, `…ForSequenceClassification`), of a folder that sentence-transformers has written (`modules.json`), or with
`--runner pooling`. Their vectors are compared to 1e-4 (`tests/correctness/test_encoders.py`).

Others run through `transformers`, more slowly: [models-through-transformers.md](models-through-transformers.md) lists them.

Written by `tests/docs/test_models_page.py` (`OCTAVO_UPDATE_GOLDEN=1`).

| classes | GGUF | native | torch | compared as |
|-|-|-|-|-|
"""


def test_the_page_lists_every_architecture_with_what_runs_it():
    rows: dict[str, list[tuple[str, dict[str, str | None]]]] = {}
    configs = {kind: config_of(kind).to_dict() for kind in MODELS}
    for kind, config in (configs | {kind: tiny_encoders.config_of(kind) for kind in tiny_encoders.MODELS}).items():
        spec = from_hf_config(config)
        lacking = {executor: unsupported(spec, executor) for executor in ("native", "torch")}
        known_as = (
            spec.architecture if spec.architecture in BY_HF_CLASS else language_model_of(spec.architecture, BY_HF_CLASS)
        )
        rows.setdefault(BY_HF_CLASS[known_as].hf_classes[0], []).append((kind, lacking))
    lines = []
    for architecture in sorted(ALL, key=lambda each: each.hf_classes[0].lower()):
        found = rows.get(architecture.hf_classes[0], [])
        known = any(hasattr(transformers, name) for name in architecture.hf_classes)
        assert found or not known, f"{architecture.hf_classes[0]} has no row in MODELS of octavo_testing.tiny_models"
        cells = [
            ", ".join(f"`{name}`" for name in architecture.hf_classes),
            f"`{architecture.gguf_name}`" if architecture.gguf_name else "",
            *(_verdict([lacking[executor] for _, lacking in found]) for executor in ("native", "torch")),
            ", ".join(kind for kind, _ in found) or f"a short reference (`{ELSEWHERE}`)",
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    assert_golden(HEAD + "".join(lines), PAGE)


def _verdict(lacking: list[str | None]) -> str:
    """The verdict over all compared variants of an architecture."""
    return "; ".join(dict.fromkeys(f"lacks {each}" for each in lacking if each is not None)) or "✓"
