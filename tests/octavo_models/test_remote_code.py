"""Families whose own code came with their weights: what their configs' fields mean, and what is refused of them."""

from __future__ import annotations

import pytest
from published_remote_code import (
    BAICHUAN_2_7B,
    BAICHUAN_2_13B,
    EXAONE_3_5_2_4B,
    INTERNLM_2_5_7B,
    MINICPM_2B,
    QWEN_7B,
)

from octavo_models import InvalidConfigError, UnsupportedModelError, from_hf_config
from octavo_models.tensors import Rows, UnitRows


def test_internlm_2_packs_each_kv_heads_queries_with_its_key_and_value():
    weights = {weight.name: weight for weight in from_hf_config(INTERNLM_2_5_7B).weights}
    assert [weights[f"layers.0.{name}"].sources[0].rows for name in "qkv"] == [
        Rows(0, 512, 768, 8),
        Rows(512, 128, 768, 8),
        Rows(640, 128, 768, 8),
    ]


def test_baichuans_versions_are_distinguished_by_their_sizes():
    small, large = from_hf_config(BAICHUAN_2_7B), from_hf_config(BAICHUAN_2_13B)
    assert (small.layers[0].attention.rotary is None, small.layers[0].attention.alibi_slopes) == (False, ())
    assert (large.layers[0].attention.rotary, len(large.layers[0].attention.alibi_slopes)) == (None, 40)
    assert large.max_position == 4096
    assert {spec.weights[-1].transform for spec in (small, large)} == {UnitRows()}
    first = from_hf_config(BAICHUAN_2_7B | {"architectures": ["BaiChuanForCausalLM"], "vocab_size": 64000})
    assert first.weights[-1].transform is None


def test_qwen_1_is_as_long_as_it_was_trained_and_counts_gate_and_up_together():
    spec = from_hf_config(QWEN_7B)
    assert (spec.max_position, spec.layers[0].mlp.intermediate_size) == (8192, 11008)


def test_minicpm_divides_its_logits_and_scales_by_its_depth():
    spec = from_hf_config(MINICPM_2B)
    assert (spec.embedding_multiplier, spec.logits_multiplier, spec.tied_head) == (12.0, 256 / 2304, True)
    assert spec.residual_multiplier == 1.4 / 40**0.5


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (QWEN_7B | {"intermediate_size": 22015}, InvalidConfigError, "intermediate_size is 22015; it counts gate and"),
        (QWEN_7B | {"rotary_pct": 0.01}, InvalidConfigError, "rotary_pct leaves 1 of 128 elements"),
        (QWEN_7B | {"layer_norm_epsilon": 0}, InvalidConfigError, "layer_norm_epsilon is 0"),
        (MINICPM_2B | {"scale_depth": -1}, InvalidConfigError, "scale_depth is -1"),
        (MINICPM_2B | {"num_experts": 8}, UnsupportedModelError, "num_experts: such a MiniCPM is not supported"),
        (MINICPM_2B | {"sparse_config": {}}, UnsupportedModelError, "sparse_config"),
        (EXAONE_3_5_2_4B | {"num_layers": 0}, InvalidConfigError, "num_layers is 0"),
        (BAICHUAN_2_13B | {"model_max_length": None}, InvalidConfigError, "max_position_embeddings is missing"),
    ],
)
def test_a_bad_field_is_named_as_the_config_calls_it(config, error, message):
    with pytest.raises(error, match=message):
        from_hf_config(config)
