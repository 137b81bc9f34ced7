"""Models that transformers computes say over two ranks what they say over one, each divided by its own plan."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.compared_logits import config_of
from octavo_testing.engine_runs import request
from octavo_testing.tiny_models import randomize
from rank_pool import spread

from octavo_engine.config import ModelConfig
from octavo_engine.engine.loader import find_files, read_model
from octavo_engine.errors import ConfigError

ALWAYS = ("qwen3_moe",)  # experts, heads and an embedding that are cut
SLOW = ("afmoe", "arcee", "cwm", "deepseek_v3", "gpt_neox", "llama", "minicpm3", "phi3", "youtu")


def written(kind, folder, **fields):
    """The small random model `kind` in `folder`, and transformers' own of it."""
    from octavo_testing.transformers_survey import small_config  # seconds, which each worker would take
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    config = small_config(kind)
    for name, value in fields.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomize(model)
    model.save_pretrained(folder)
    return model


def config_for(folder):
    model = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32", model_impl="transformers")
    return config_of(model, "torch")


@pytest.mark.parametrize("kind", [*ALWAYS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_two_ranks_compute_what_transformers_computes(pool, kind, tmp_path):
    """In chunks beside each other, and decoded."""
    model = written(kind, tmp_path)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 211, (n,), generator=generator).tolist() for n in (1, 16, 37, 70)]
    asked = [request(str(i), prompt, 6, prompt_logprobs=2, logprobs=2) for i, prompt in enumerate(prompts)]
    results = pool.run(spread(config_for(tmp_path), 2), asked)
    for i, prompt in enumerate(prompts):
        result = results[str(i)]
        with torch.inference_mode():
            expected = model(torch.tensor([prompt + result["tokens"]])).logits[0].log_softmax(-1)
        got = [*(result["prompt_logprobs"] or [])[1:], *result["logprobs"]]
        assert len(got) == len(prompt) - 1 + 6
        for row, entry in zip(expected[-1 - len(got) : -1], got, strict=True):
            assert entry[1] == pytest.approx(float(row[entry[0]]), abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "ranks", "message"),
    [
        ("opt", 2, "--tensor-parallel-size 2: transformers has no plan to divide OPTForCausalLM; leave it out"),
        (
            "llama",
            4,
            "--tensor-parallel-size 4 does not divide the model's 6 attention heads and 2 KV heads.*: 1, 2 would",
        ),
    ],
)
def test_what_does_not_divide_is_refused_by_name(kind, ranks, message, tmp_path):
    written(kind, tmp_path)
    config = spread(config_for(tmp_path), ranks)
    files, _ = find_files(config)
    with pytest.raises(ConfigError, match=message):
        read_model(config, files)
