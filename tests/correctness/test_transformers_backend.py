"""Models that transformers computes over paged blocks give transformers' own logits: chunks, decodes, cached prefixes."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.engine_runs import engine_config, generate, request, running_core
from octavo_testing.tiny_models import randomize

from octavo_engine.config import ModelConfig, SchedulerConfig
from octavo_engine.engine.loader import read_model
from octavo_engine.weights.source import resolve
from octavo_models.outline import ModelOutline

ALWAYS = ("afmoe", "diffllama")
SLOW = ("aria_text", "bitnet", "ctrl", "cwm", "deepseek_v3", "laguna", "mellum", "minicpm3", "vaultgemma", "youtu")
DESCRIBED = ("gemma2", "mistral", "qwen3_moe")


def slow(kinds: tuple[str, ...]) -> list:
    return [pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", [*ALWAYS, *slow(SLOW + DESCRIBED)])
def test_logits_equal_transformers_own(kind, tmp_path):
    """Prompts longer than the windows beside each other, in chunks; the second round reads cached prefixes."""
    from octavo_testing.transformers_survey import small_config  # seconds, which each worker would take
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(small_config(kind), dtype=torch.float32).eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    model_config = ModelConfig(
        model=str(tmp_path),
        served_model_names=("tiny",),
        dtype="float32",
        model_impl="transformers",
    )
    files = resolve(model_config, lambda *_: None)
    config = engine_config(model_config, "torch", scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=8))
    spec = read_model(config, files)
    assert isinstance(spec, ModelOutline)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 211, (n,), generator=generator).tolist() for n in (1, 16, 37, 70)]
    with running_core(config, files, spec) as core:
        first = generate(core, [request(str(i), p, 8, prompt_logprobs=3, logprobs=3) for i, p in enumerate(prompts)])
        again = generate(core, [request(f"again {i}", p, 8, logprobs=3) for i, p in enumerate(prompts)])
    assert again["again 3"].num_cached_tokens == 64
    for i, prompt in enumerate(prompts):
        for result in (first[str(i)], again[f"again {i}"]):
            assert result.error is None
            with torch.inference_mode():
                expected = model(torch.tensor([prompt + result.tokens])).logits[0].log_softmax(-1)
            got = [*(result.prompt_logprobs or [])[1:], *result.logprobs]
            for row, entry in zip(expected[-1 - len(got) : -1], got, strict=True):
                assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
