"""Every architecture that the engine describes computes what transformers computes, on small random models."""

from __future__ import annotations

import pytest
import torch
import transformers
from engine_runs import engine_config, generate, request, running_core

from octavo_engine.config import ModelConfig, SchedulerConfig

SIZES = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # so that the logits differ clearly
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64}
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}

MODELS = {
    "llama": ("LlamaConfig", {}),
    "llama tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama 3 rope": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama yarn rope": ("LlamaConfig", {"rope_parameters": YARN}),
    "mistral with a window": ("MistralConfig", {"sliding_window": 9}),
    "mistral without": ("MistralConfig", {"sliding_window": None}),
    "qwen 2": ("Qwen2Config", {}),
    "qwen 3": ("Qwen3Config", {}),
    "smollm 3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1]}),
    "gemma 3": (
        "Gemma3TextConfig",
        {
            "sliding_window": 11,
            "layer_types": GEMMA_LAYERS,
            "rope_parameters": GEMMA_ROPE,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 20.0,
            "tie_word_embeddings": True,
        },
    ),
}


@pytest.fixture(scope="module", params=list(MODELS))
def tiny_model(request, tmp_path_factory):
    """(folder, transformers model) of a random model with every parameter random, norms and biases too."""
    config_class, fields = MODELS[request.param]
    torch.manual_seed(11)
    config = getattr(transformers, config_class)(**(SIZES | fields))
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    return folder, model


def test_logits_and_greedy_tokens_equal_transformers(tiny_model, executor_name):
    """Prompts of odd lengths past the windows, prefilled in chunks and decoded together; logits to 1e-3."""
    folder, model = tiny_model
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 211, (n,), generator=generator).tolist() for n in (1, 16, 37, 70)]
    config = engine_config(
        ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32"),
        executor_name,
        scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=8),
    )
    with running_core(config) as core:
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
