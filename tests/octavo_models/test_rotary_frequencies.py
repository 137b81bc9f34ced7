"""Rotary frequencies equal those that transformers computes, for each kind of scaling and in both spellings."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from published_configs import GEMMA_3_270M, LLAMA_3_2_1B, SMOLLM2_135M
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from octavo_models import InvalidConfigError, UnsupportedModelError, from_hf_config
from octavo_models.layers import Rotary

BASE = SMOLLM2_135M | {"max_position_embeddings": 8192}
FACTORS = [1.0 + 0.25 * i for i in range(32)]
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA_3_2_1B["rope_scaling"],
    "llama3 with one limit": {  # Llama 4
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn with its own attention factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 1024,
        "attention_factor": 1.25,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "yarn without whole dimensions": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 1024,
        "truncate": False,
    },
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 2.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 32,
        "long_factor": FACTORS,
    },
}


def reference(config: dict, kind: str) -> tuple[list[float], float]:
    """(frequencies, factor on cos and sin) as transformers has them for the longest sequence."""
    fields = {key: copy.deepcopy(value) for key, value in config.items() if key not in {"architectures", "torch_dtype"}}
    hf = transformers.LlamaConfig(**fields)
    seq_len = from_hf_config(config).max_position
    if kind == "default":
        frequencies = 1.0 / (hf.rope_parameters["rope_theta"] ** (torch.arange(0, 64, 2).float() / 64))
        return frequencies.tolist(), 1.0
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](hf, "cpu", seq_len=seq_len)
    return frequencies.tolist(), float(factor)


def rotary_of(config: dict, layer: int = 0) -> Rotary:
    rotary = from_hf_config(config).layers[layer].attention.rotary
    assert rotary is not None
    return rotary


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "type"])
def test_each_scaling_gives_the_frequencies_of_transformers(name, spelling):
    scaling = SCALINGS[name]
    if spelling == "rope_parameters":
        config = {key: value for key, value in BASE.items() if key != "rope_theta"}
        config["rope_parameters"] = scaling | {"rope_theta": 100000.0}
    elif spelling == "rope_scaling":
        config = BASE | {"rope_scaling": dict(scaling)}
    else:
        config = BASE | {"rope_scaling": {"type" if k == "rope_type" else k: v for k, v in scaling.items()}}
    rotary = rotary_of(config)
    frequencies, factor = reference(BASE | {"rope_scaling": dict(scaling)}, scaling["rope_type"])
    assert rotary.inverse_frequencies() == pytest.approx(frequencies, rel=2e-6)
    assert rotary.attention_factor() == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 8192),
        ({"rope_type": "default"}, 8192),
        ({"rope_type": "linear", "factor": 4.0}, 32768),
        ({"type": "linear", "factor": 2.5}, 20480),
        ({"rope_type": "dynamic", "factor": 2.0}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}, 65536),
        ({"rope_type": "yarn", "factor": 4.0}, 32768),
        (LLAMA_3_2_1B["rope_scaling"], 8192),
        (SCALINGS["longrope"], 8192),
    ],
)
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
def test_a_model_is_as_long_as_vllm_derives_it(scaling, longest, spelling):
    """vllm/config/model.py, `_get_and_verify_max_len`: factors of linear, dynamic and yarn lengthen, others did."""
    if spelling == "rope_parameters" and scaling is not None:
        kind = scaling.get("rope_type") or scaling["type"]
        scaling = {key: value for key, value in scaling.items() if key != "type"} | {"rope_type": kind}
    assert from_hf_config(BASE | {spelling: scaling}).max_position == longest


def test_the_length_of_gemma_3_is_a_scaled_one_already():
    for config in (OLD_GEMMA, NEW_GEMMA):
        assert from_hf_config(config).max_position == GEMMA_3_270M["max_position_embeddings"]


def test_a_factor_beyond_all_lengths_is_refused():
    with pytest.raises(InvalidConfigError, match=r"factor lengthens the model to 8\.192e"):
        from_hf_config(BASE | {"rope_scaling": {"rope_type": "linear", "factor": 1e20}})


def test_without_scaling_the_frequencies_are_powers_of_the_base():
    assert rotary_of(BASE).inverse_frequencies() == pytest.approx(reference(BASE, "default")[0], rel=2e-6)


def test_a_partial_rotary_turns_the_first_elements_only():
    assert rotary_of(BASE | {"partial_rotary_factor": 0.5}).dim == 32
    assert rotary_of(BASE | {"rope_parameters": {"rope_theta": 5e3, "partial_rotary_factor": 0.25}}) == Rotary(16, 5e3)


OLD_GEMMA = GEMMA_3_270M | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
NEW_GEMMA = {key: value for key, value in GEMMA_3_270M.items() if not key.startswith("rope_")} | {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
}


@pytest.mark.parametrize("config", [OLD_GEMMA, NEW_GEMMA], ids=["old spelling", "new spelling"])
def test_gemma_turns_local_layers_by_one_base_and_global_ones_by_another_and_scales_only_those(config):
    hf = transformers.Gemma3TextConfig(
        **{key: copy.deepcopy(value) for key, value in config.items() if key not in {"architectures", "torch_dtype"}}
    )
    embedding = transformers.models.gemma3.modeling_gemma3.Gemma3RotaryEmbedding(hf)
    for layer, kind in ((0, "sliding_attention"), (5, "full_attention")):
        expected = getattr(embedding, f"{kind}_inv_freq").tolist()
        assert rotary_of(config, layer).inverse_frequencies() == pytest.approx(expected, rel=2e-6)


def test_a_scaling_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(UnsupportedModelError, match=r"rope_type is 'spiral'; supported are default, linear"):
        from_hf_config(BASE | {"rope_scaling": {"rope_type": "spiral"}})


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "linear"}, "factor is missing"),
        ({"rope_type": "dynamic"}, "factor is missing"),
        ({"rope_type": "linear", "factor": -2.0}, "factor is -2"),
        ({"rope_type": "linear", "factor": "4"}, "factor is '4'"),
        ({"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 4096}, "long_factor is missing"),
        (SCALINGS["longrope"] | {"long_factor": [1.0] * 31}, "long_factor has 31 elements; 32 are expected"),
        (SCALINGS["llama3"] | {"high_freq_factor": 0.5}, "high_freq_factor is 0.5"),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1}, "original_max_position"),
    ],
)
def test_a_scaling_that_lacks_something_is_refused_by_the_name_of_the_field(scaling, message):
    with pytest.raises(InvalidConfigError, match=message):
        from_hf_config(BASE | {"rope_scaling": scaling})


GTE_MULTILINGUAL_BASE = {  # https://huggingface.co/Alibaba-NLP/gte-multilingual-base
    "architectures": ["NewModel"],
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 8192,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 8.0, "type": "ntk"},
    "rope_theta": 20000,
    "torch_dtype": "float16",
    "type_vocab_size": 1,
    "vocab_size": 250048,
}


def test_ntk_divides_each_pair_by_one_more_power_than_the_one_before():
    """Its description (https://kexue.fm/archives/9706, equation 6) numbers the pairs of a head of d elements m = 1 … d / 2,
    and divides the frequency of pair m by factor ** (2 m / d): the slowest one by the factor itself."""
    rotary = from_hf_config(GTE_MULTILINGUAL_BASE).layers[0].attention.rotary
    d, base, factor = 64, 20000.0, 8.0
    expected = [base ** (-2 * (m - 1) / d) / factor ** (2 * m / d) for m in range(1, d // 2 + 1)]
    assert rotary.inverse_frequencies() == pytest.approx(expected, rel=1e-12)
    assert rotary.inverse_frequencies()[-1] == pytest.approx(base ** (-62 / 64) / factor, rel=1e-12)


def test_mixed_ntk_is_refused():
    scaling = {"factor": 8.0, "type": "ntk", "mixed_b": 0.7}
    with pytest.raises(UnsupportedModelError, match="mixed_b"):
        from_hf_config(GTE_MULTILINGUAL_BASE | {"rope_scaling": scaling})
