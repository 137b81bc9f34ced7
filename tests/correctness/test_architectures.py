"""Every architecture that the engine describes computes what transformers computes, on small random models."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.engine_runs import engine_config, generate, request, running_core
from octavo_testing.stored_weights import check_stored, stored_shapes
from octavo_testing.tiny_models import MODELS, make

from octavo_engine.config import ModelConfig, SchedulerConfig
from octavo_engine.weights.describe import describe
from octavo_engine.weights.source import resolve
from octavo_models.features import unsupported


@pytest.fixture(scope="module", params=list(MODELS))
def tiny_model(request, tmp_path_factory):
    """(folder, transformers model)."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, make(request.param, folder)


def test_the_description_reads_every_tensor_of_the_checkpoint_once(tiny_model):
    """transformers writes the names and shapes that published checkpoints have."""
    folder, _ = tiny_model
    model_config = ModelConfig(model=str(folder), served_model_names=("tiny",))
    check_stored(describe(model_config, resolve(model_config, lambda *_: None)), stored_shapes(folder))


def test_logits_and_greedy_tokens_equal_transformers(tiny_model, executor_name):
    """Prompts of odd lengths past the windows, prefilled in chunks and decoded together; logits to 1e-3."""
    folder, model = tiny_model
    model_config = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32")
    files = resolve(model_config, lambda *_: None)
    spec = describe(model_config, files)
    lacking = unsupported(spec, executor_name)
    if lacking is not None:
        pytest.skip(f"the {executor_name} executor does not support {lacking}")
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 211, (n,), generator=generator).tolist() for n in (1, 16, 37, 70)]
    config = engine_config(
        model_config,
        executor_name,
        scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=8),
    )
    with running_core(config, files, spec) as core:
        results = generate(
            core,
            [request(str(i), p, 12, prompt_logprobs=3, logprobs=3) for i, p in enumerate(prompts)],
        )
    for i, prompt in enumerate(prompts):
        result = results[str(i)]
        assert result.error is None
        with torch.inference_mode():
            expected = model(torch.tensor([prompt + result.tokens])).logits[0].log_softmax(-1)
        got = [*(result.prompt_logprobs or [])[1:], *result.logprobs]
        assert len(got) == len(prompt) - 1 + 12
        for row, entry in zip(expected, got, strict=False):
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
            assert [logprob for _, logprob in entry.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        for row, token in zip(expected[len(prompt) - 1 :], result.tokens, strict=False):
            assert row[token] >= row.max() - 1e-4
