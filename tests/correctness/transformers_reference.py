"""What transformers makes of a model and prompts: greedy tokens, and how close its two best logits were.

Computed once and kept in the tests' cache under everything that it depends on.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from prompts import essay, prompts
from real_models import RealModel, exported, load_transformers, test_cache, versions, written_whole

from octavo_engine.frontend.tokenizer import load_tokenizer

NUM_TOKENS = 64
CLOSE = 1e-4  # where the two best logits are closer, rounding decides and a comparison ends
CUT_PROMPT, CUT_TOKENS = 19, 4
PLAIN_TEXTS = ("harbour", "clocks")


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and what transformers adds to it greedily. `gaps[i]` is the best logit less the second, at token i."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]

    def comparable(self, limit: int = NUM_TOKENS) -> int:
        """How many of the first tokens are beyond doubt."""
        close = (i for i, gap in enumerate(self.gaps[:limit]) if gap < CLOSE)
        return next(close, min(limit, len(self.gaps)))


@dataclass(frozen=True, slots=True)
class Reference:
    """All of one model."""

    continuations: list[Continuation]
    texts: dict[str, list[int]]  # token ids of the essays
    losses: dict[str, float]  # mean negative log-likelihood of each essay in float32, nats a token


@cache
def reference(model: RealModel) -> Reference:
    """From the cache, or else computed: about a minute for SmolLM2, a minute and a half for Gemma 3."""
    tokenizer = load_tokenizer(model.files)
    ids = prompts(tokenizer.encode)
    texts = {name: tokenizer.encode(essay(name)) for name in PLAIN_TEXTS}
    key = versions() | {
        "file": model.gguf.name,
        "size": model.gguf.stat().st_size,
        "ids": ids,
        "texts": texts,
        "layout": 1,
    }
    target = test_cache(f"{model.name}-reference", key)
    if not target.exists():
        with written_whole(target) as folder:
            (folder / "reference.json").write_text(json.dumps(_compute(model, ids, texts)))
    stored = json.loads((target / "reference.json").read_text())
    continuations = [Continuation(p, c["tokens"], c["gaps"]) for p, c in zip(ids, stored["continuations"], strict=True)]
    return Reference(continuations, texts, stored["losses"])


@dataclass(frozen=True, slots=True)
class CutReference:
    """Two layers of a model between its embedding and its head: a greedy continuation and every token's logprob."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]
    logprobs: list[float]  # of the prompt's tokens after the first, then of the continuation's


@cache
def cut_reference(model: RealModel, layers: tuple[int, ...]) -> CutReference:
    """From the cache, or else computed, which takes as long as transformers takes to load the model."""
    tokenizer = load_tokenizer(model.files)
    prompt = tokenizer.encode(essay("harbour"))[:CUT_PROMPT]
    key = versions() | {"size": model.gguf.stat().st_size, "prompt": prompt, "layers": layers, "layout": 1}
    target = test_cache(f"{model.name}-cut", key)
    if not target.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            computed = _cut(_load(model), layers, prompt)
        with written_whole(target) as folder:
            (folder / "reference.json").write_text(json.dumps(computed))
    return CutReference(prompt, **json.loads((target / "reference.json").read_text()))


@torch.inference_mode()
def _cut(model: Any, layers: tuple[int, ...], prompt: list[int]) -> dict[str, Any]:
    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in layers)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in layers]
    ids, gaps = list(prompt), []
    for _ in range(CUT_TOKENS):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        best = logits[-1].topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    logprobs = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    own = logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return {"tokens": ids[len(prompt) :], "gaps": gaps, "logprobs": own.tolist()}


def _compute(model: RealModel, ids: list[list[int]], texts: dict[str, list[int]]) -> dict[str, Any]:
    threads = torch.get_num_threads()
    # Decoding waits for memory, not for cores; and on a busy machine two threads spend their time on each other.
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another project's deprecations are not ours to fail for
        loaded = _load(model)
        continuations = []
        for _, group in groupby(ids, key=len):
            continuations += greedy(loaded, list(group))
        losses = {name: loss(loaded, t) for name, t in texts.items()}
    torch.set_num_threads(threads)
    return {"continuations": continuations, "losses": losses}


def _load(model: RealModel) -> Any:
    """The model in float32; SmolLM2 from its exported folder, which reads faster than the GGUF."""
    if model.name == "smollm2":
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(exported(model), dtype=torch.float32).eval()
    return load_transformers(model)


@torch.inference_mode()
def greedy(model: Any, ids: list[list[int]]) -> list[dict[str, Any]]:
    """Continue prompts of one length together, with transformers' own KV cache and no padding."""
    tokens: list[list[int]] = [[] for _ in ids]
    gaps: list[list[float]] = [[] for _ in ids]
    given, past = torch.tensor(ids), None
    for _ in range(NUM_TOKENS):
        out = model(given, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        best = out.logits[:, -1].topk(2)
        given = best.indices[:, :1]
        for row, (values, indices) in enumerate(zip(best.values, best.indices, strict=True)):
            tokens[row].append(int(indices[0]))
            gaps[row].append(float(values[0] - values[1]))
    return [{"tokens": t, "gaps": g} for t, g in zip(tokens, gaps, strict=True)]


@torch.inference_mode()
def loss(model: Any, ids: list[int]) -> float:
    """Mean negative log-likelihood of the text after its first token, in nats a token."""
    hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
    total = 0.0
    for start in range(0, len(ids) - 1, 128):  # a large vocabulary's logits come in slices
        rows = hidden[start : min(start + 128, len(ids) - 1)]
        logprobs = model.lm_head(rows).double().log_softmax(-1)
        targets = torch.tensor(ids[start + 1 : start + 1 + len(rows)])
        total -= float(logprobs.gather(1, targets[:, None]).sum())
    return total / (len(ids) - 1)
