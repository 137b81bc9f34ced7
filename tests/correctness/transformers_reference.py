"""Asks transformers for the references, and writes them:
`PYTHONPATH=testing python tests/correctness/transformers_reference.py [MODEL …]`.

It takes minutes: transformers is slow to read a GGUF file, and decodes on a CPU. The 1.5B Qwen takes some 7 GB.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from octavo_testing.real_models import (
    GEMMA3,
    QWEN_CODER,
    QWEN_CODER_SMALL,
    SMOLLM2,
    RealModel,
    fetch,
    load_transformers,
    versions,
)
from references import CUT_TOKENS, CUTS, FEW_TOKENS, FOLDER, NUM_TOKENS, Asked, asked, few_prompts, key_of_few


def compute(model: RealModel, given: Asked) -> dict[str, Any]:
    """All of one model, in float32; numbers to seven digits."""
    threads = torch.get_num_threads()
    # Decoding waits for memory, not for cores; and on a busy machine two threads spend their time on each other.
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another project's deprecations are not ours to fail for
        loaded = load_transformers(model)
        continuations = []
        for _, group in groupby(given.prompts, key=len):
            continuations += greedy(loaded, list(group))
        losses = {name: round(loss(loaded, ids), 7) for name, ids in given.texts.items()}
        cut = two_layers(loaded, CUTS[model.name], given.cut_prompt)
    torch.set_num_threads(threads)
    return {"continuations": continuations, "losses": losses, "cut": cut}


def compute_few(model: RealModel, given: list[list[int]]) -> dict[str, Any]:
    """Compute a few prompts of a large model together, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_transformers(model)
        return {"continuations": [each for ids in given for each in greedy(loaded, [ids], FEW_TOKENS)]}


@torch.inference_mode()
def greedy(model: Any, ids: list[list[int]], num_tokens: int = NUM_TOKENS) -> list[dict[str, Any]]:
    """Continue prompts of one length together, with transformers' own KV cache and no padding."""
    tokens: list[list[int]] = [[] for _ in ids]
    gaps: list[list[float]] = [[] for _ in ids]
    given, past = torch.tensor(ids), None
    for _ in range(num_tokens):
        out = model(given, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        best = out.logits[:, -1].topk(2)
        given = best.indices[:, :1]
        for row, (values, indices) in enumerate(zip(best.values, best.indices, strict=True)):
            tokens[row].append(int(indices[0]))
            gaps[row].append(round(float(values[0] - values[1]), 7))
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


@torch.inference_mode()
def two_layers(model: Any, layers: tuple[int, ...], prompt: list[int]) -> dict[str, Any]:
    """A model of these layers alone; the others are gone from `model` afterwards."""
    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in layers)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in layers]
    ids, gaps = list(prompt), []
    for _ in range(CUT_TOKENS):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        best = logits[-1].topk(2)
        gaps.append(round(float(best.values[0] - best.values[1]), 7))
        ids.append(int(best.indices[0]))
    logprobs = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    own = logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return {"tokens": ids[len(prompt) :], "gaps": gaps, "logprobs": [round(float(value), 7) for value in own]}


def main(names: Sequence[str]) -> None:
    for name, uri in (("smollm2", SMOLLM2), ("gemma3", GEMMA3)):
        if names and name not in names:
            continue
        model = fetch(name, uri)
        given = asked(model)
        print(f"· {name}: transformers reads, decodes and scores …", file=sys.stderr)
        write(name, {"key": given.key(model), "made with": versions(), **compute(model, given)})
    for name, uri in (("qwen-coder", QWEN_CODER), ("qwen-coder-small", QWEN_CODER_SMALL)):
        if names and name not in names:
            continue
        model = fetch(name, uri)
        few = few_prompts(model)
        print(f"· {model.name}: transformers reads and decodes …", file=sys.stderr)
        write(model.name, {"key": key_of_few(model, few), "made with": versions(), **compute_few(model, few)})


def write(name: str, found: dict[str, Any]) -> None:
    lines = json.dumps(found).replace(', {"tokens"', ',\n {"tokens"').replace(', "', ',\n "')
    (FOLDER / f"{name}.json").write_text(lines + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
