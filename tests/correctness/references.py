"""Answers of transformers for a model and prompts: greedy tokens, and how close its two best logits were.

They lie in `references/`, as `python tests/correctness/transformers_reference.py` wrote it with transformers itself; to
load it would take longer than all that is compared with it. `OCTAVO_DEEP_TESTS=1` compares with transformers again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from octavo_testing.real_models import RealModel
from prompts import essay, prompts

from octavo_engine.text.tokenizer import load_tokenizer
from octavo_engine.weights.download import sha256_of

FOLDER = Path(__file__).parent / "references"
NUM_TOKENS = 64
CLOSE = 1e-4  # where the two best logits are closer, rounding decides and a comparison ends
CUTS = {"smollm2": (0, 1), "gemma3": (4, 5)}  # two layers of each; of Gemma one with a window and one without
CUT_PROMPT, CUT_TOKENS = 19, 4
PLAIN_TEXTS = ("harbour", "clocks")
FEW_PROMPTS, FEW_TOKENS = (1, 6, 9, 14), 12  # what is compared of a model that is large for a CPU


def beyond_doubt(gaps: Sequence[float], close: float = CLOSE) -> int:
    """The number of tokens before the first whose two best logits are closer than `close`."""
    return next((i for i, gap in enumerate(gaps) if gap < close), len(gaps))


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and what transformers adds to it greedily. `gaps[i]` is the best logit less the second, at token i."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]

    def comparable(self, limit: int = NUM_TOKENS) -> int:
        """The number of first tokens that are beyond doubt."""
        return beyond_doubt(self.gaps[:limit])


@dataclass(frozen=True, slots=True)
class CutReference:
    """Two layers of a model between its embedding and its head: a greedy continuation and every token's logprob."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]
    logprobs: list[float]  # of the prompt's tokens after the first, then of the continuation's


@dataclass(frozen=True, slots=True)
class Reference:
    """All of one model."""

    continuations: list[Continuation]
    texts: dict[str, list[int]]  # token ids of the essays
    losses: dict[str, float]  # mean negative log-likelihood of each essay in float32, nats a token
    cut: CutReference


@dataclass(frozen=True, slots=True)
class Asked:
    """The input of transformers, in token ids."""

    prompts: list[list[int]]
    texts: dict[str, list[int]]

    @property
    def cut_prompt(self) -> list[int]:
        return self.texts["harbour"][:CUT_PROMPT]

    def key(self, model: RealModel) -> str:
        """Another one for every change of prompts, tokenizer or model."""
        given = [self.prompts, self.texts, sha256_of(model.gguf), NUM_TOKENS, CUTS[model.name]]
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]


def asked(model: RealModel) -> Asked:
    encode = load_tokenizer(model.files).encode
    return Asked(prompts(encode), {name: encode(essay(name)) for name in PLAIN_TEXTS})


def few_prompts(model: RealModel) -> list[list[int]]:
    """The prompts for a large model."""
    every = prompts(load_tokenizer(model.files).encode)
    return [every[i] for i in FEW_PROMPTS]


def key_of_few(model: RealModel, given: Sequence[Sequence[int]]) -> str:
    """Another one for every change of prompts or tokenizer. `package_parts.KNOWN` has the file's hash."""
    return hashlib.sha256(json.dumps([given, model.gguf.stat().st_size, FEW_TOKENS]).encode()).hexdigest()[:16]


def few_continuations(model: RealModel) -> list[Continuation]:
    """A large model's, as they were written for exactly these prompts and this file."""
    given = few_prompts(model)
    stored = json.loads((FOLDER / f"{model.name}.json").read_text("utf-8"))
    assert stored["key"] == key_of_few(model, given), (
        "made for other prompts: run tests/correctness/transformers_reference.py"
    )
    return [Continuation(prompt, **each) for prompt, each in zip(given, stored["continuations"], strict=True)]


@cache
def reference(model: RealModel) -> Reference:
    """The reference written for exactly these prompts and this file."""
    given = asked(model)
    stored = json.loads((FOLDER / f"{model.name}.json").read_text("utf-8"))
    assert stored["key"] == given.key(model), "made for other prompts: run tests/correctness/transformers_reference.py"
    return as_reference(given, stored)


def as_reference(given: Asked, found: Mapping) -> Reference:
    return Reference(
        [Continuation(prompt, **each) for prompt, each in zip(given.prompts, found["continuations"], strict=True)],
        given.texts,
        found["losses"],
        CutReference(given.cut_prompt, **found["cut"]),
    )
