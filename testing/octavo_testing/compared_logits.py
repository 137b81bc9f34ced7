"""Compares what an executor computes with a reference's logits, over prompts of odd lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from octavo_engine.config import ModelConfig, SchedulerConfig
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.features import Executor, unsupported
from octavo_testing.engine_runs import engine_config, generate, request, running_core

LENGTHS = (1, 16, 37, 70)
NEW_TOKENS = 12


def check_logits(
    folder: Path, executor: Executor, logits: Callable[[list[int]], torch.Tensor], vocabulary: int
) -> None:
    """Assert that the model in `folder` gives the reference's logits, float32 [num_tokens, vocabulary], to 1e-3.

    Prompts longer than windows are prefilled in chunks and decoded together. Skips what the executor does not support.
    """
    model_config = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32")
    files = resolve(model_config, lambda *_: None)
    spec = read_spec(model_config, files)
    lacking = unsupported(spec, executor)
    if lacking is not None:
        pytest.skip(f"the {executor} executor does not support {lacking}")
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in LENGTHS]
    config = engine_config(model_config, executor, scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=8))
    with running_core(config, files, spec) as core:
        results = generate(
            core,
            [request(str(i), p, NEW_TOKENS, prompt_logprobs=3, logprobs=3) for i, p in enumerate(prompts)],
        )
    for i, prompt in enumerate(prompts):
        result = results[str(i)]
        assert result.error is None
        with torch.inference_mode():
            expected = logits(prompt + result.tokens).log_softmax(-1)
        got = [*(result.prompt_logprobs or [])[1:], *result.logprobs]
        assert len(got) == len(prompt) - 1 + NEW_TOKENS
        for row, entry in zip(expected, got, strict=False):
            assert entry is not None
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
            assert [logprob for _, logprob in entry.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        for row, token in zip(expected[len(prompt) - 1 :], result.tokens, strict=False):
            assert row[token] >= row.max() - 1e-4
