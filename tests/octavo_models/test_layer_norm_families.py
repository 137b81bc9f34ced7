"""Configs of the families with LayerNorm, learned positions or ALiBi are read right, beyond their sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from published_experts import DBRX_132B
from published_layer_norm import (
    BLOOM_176B,
    BLOOM_560M,
    CODEGEN_350M,
    COMMAND_R,
    COMMAND_R7B,
    COMMAND_R_PLUS,
    FALCON_7B,
    FALCON_11B,
    FALCON_40B,
    FALCON_RW_1B,
    GPT_J_6B,
    GPT_NEOX_JAPANESE_2_7B,
    MINITRON_4B,
    MPT_7B,
    OLMO_7B,
    PHI_2,
    PYTHIA_160M,
    REFINED_WEB_7B,
    REFINED_WEB_40B,
    STABLELM_2_12B,
    STABLELM_3B_4E1T,
    STARCODER2_3B,
)
from published_learned_positions import GPT2_SMALL, GPT_1, GPT_NEO_125M, OPT_125M, OPT_350M, SANTACODER

from octavo_models import InvalidConfigError, UnsupportedModelError, from_hf_checkpoint, from_hf_config
from octavo_models.heads import alibi_slopes
from octavo_models.layers import Experts, Mlp, Norm, Rotary, Router
from octavo_models.spec import LearnedPositions
from octavo_models.stored_tensor import StoredTensor
from octavo_models.tensors import Rows, Source


def test_phi_rotates_a_part_of_each_head_and_feeds_both_halves_one_norm():
    spec = from_hf_config(PHI_2)
    layer = spec.layers[0]
    assert layer.attention.rotary is not None
    assert (layer.attention.head_dim_k, layer.attention.rotary.dim) == (80, 32)
    assert layer.parallel_residual
    assert layer.pre_mlp_norm is None
    assert spec.head_bias
    assert not spec.tied_head


def test_falcon_has_three_layouts_of_norms_and_kv_heads():
    small, large, newer = (from_hf_config(config).layers[0] for config in (FALCON_7B, FALCON_40B, FALCON_11B))
    assert (small.attention.num_kv_heads, large.attention.num_kv_heads, newer.attention.num_kv_heads) == (1, 8, 8)
    assert [layer.pre_mlp_norm is not None for layer in (small, large, newer)] == [False, True, False]
    assert all(layer.parallel_residual for layer in (small, large, newer))


def test_falcon_adds_alibi_before_it_scales_the_scores():
    attention = from_hf_config(FALCON_RW_1B).layers[0].attention
    assert attention.rotary is None
    assert attention.alibi_slopes == pytest.approx([slope * attention.scale for slope in alibi_slopes(32)])


@pytest.mark.parametrize(("refined_web", "falcon"), [(REFINED_WEB_7B, FALCON_7B), (REFINED_WEB_40B, FALCON_40B)])
def test_refined_web_is_falcon(refined_web, falcon):
    spec = from_hf_config(refined_web)
    assert replace(spec, architecture="FalconForCausalLM") == from_hf_config(falcon)
    assert spec.max_position == 2048


def test_slopes_of_alibi_are_those_of_its_paper():
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(16)[:2] == pytest.approx((2**-0.5, 2**-1.0))
    assert alibi_slopes(6) == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)
    assert alibi_slopes(4, largest=16.0) == (2**-4, 2**-8, 2**-12, 2**-16)


def test_pythia_names_its_rotary_embedding_in_its_own_words():
    attention = from_hf_config(PYTHIA_160M | {"rotary_pct": 0.5, "rotary_emb_base": 500}).layers[0].attention
    assert attention.rotary is not None
    assert (attention.rotary.dim, attention.rotary.theta) == (32, 500.0)
    with pytest.raises(InvalidConfigError, match="rotary_pct leaves 0 of 64"):
        from_hf_config(PYTHIA_160M | {"rotary_pct": 0.001})


def test_opt_has_two_rows_before_its_first_position():
    assert from_hf_config(OPT_125M).positions == LearnedPositions(2050, 2)
    assert from_hf_config(OPT_125M).max_position == 2048


def test_opt_350m_keeps_its_norms_on_the_residual_stream():
    spec = from_hf_config(OPT_350M)
    layer = spec.layers[0]
    assert layer.post_norms_sum
    assert (layer.pre_attention_norm, layer.pre_mlp_norm, spec.final_norm) == (None, None, None)
    assert spec.projected_embedding == 512


def test_gpt2_can_scale_attention_by_the_layer():
    spec = from_hf_config(GPT2_SMALL | {"scale_attn_by_inverse_layer_idx": True})
    assert [layer.attention.scale for layer in spec.layers[:3]] == pytest.approx([1 / 8, 1 / 16, 1 / 24])


def test_gpt_1_keeps_its_norms_on_the_residual_stream_and_calls_the_approximation_gelu():
    spec = from_hf_config(GPT_1)
    layer = spec.layers[0]
    assert layer.post_norms_sum
    assert (layer.pre_attention_norm, spec.final_norm) == (None, None)
    assert layer.mlp == Mlp(3072, "gelu_tanh", gated=False, bias=True)


def test_santacoder_has_one_kv_head_and_gpt_neo_a_window_in_every_other_layer():
    assert from_hf_config(SANTACODER).layers[0].attention.num_kv_heads == 1
    spec = from_hf_config(GPT_NEO_125M)
    assert [layer.attention.window for layer in spec.layers[:4]] == [None, 256, None, 256]
    assert (spec.layers[0].attention.scale, spec.layers[0].attention.qkv_bias) == (1.0, False)


def test_gpt_j_rotates_pairs_of_neighbours():
    assert from_hf_config(GPT_J_6B).layers[0].attention.rotary == Rotary(64, interleaved=True)


def test_codegen_packs_q_v_and_k_for_four_devices():
    sources = {weight.name: weight.sources[0] for weight in from_hf_config(CODEGEN_350M).weights}
    rows = [sources[f"layers.0.{name}"].rows for name in "qvk"]
    assert rows == [Rows(first, 256, 768, groups=4) for first in (0, 256, 512)]


def test_bloom_normalizes_its_embedding_and_goes_by_either_name_of_its_width():
    for config, width in ((BLOOM_560M, 1024), (BLOOM_176B, 14336)):
        spec = from_hf_config(config)
        assert (spec.hidden_size, spec.max_position, spec.embedding_norm) == (width, 2048, spec.final_norm)
        assert spec.layers[0].attention.alibi_slopes == alibi_slopes(spec.layers[0].attention.num_heads)


def test_mpt_goes_by_two_names_and_may_clip():
    clipped = MPT_7B | {"attn_config": {"clip_qkv": 6, "alibi_bias_max": 16, "softmax_scale": 0.5}}
    attention = from_hf_config(clipped).layers[0].attention
    assert (attention.qkv_clip, attention.scale) == (6.0, 0.5)
    assert attention.alibi_slopes == alibi_slopes(32, 16.0)
    named = replace(from_hf_config(MPT_7B | {"architectures": ["MPTForCausalLM"]}), architecture="MptForCausalLM")
    assert named == from_hf_config(MPT_7B)


def test_dbrx_reads_its_attention_and_its_experts_from_mappings_of_their_own():
    layer = from_hf_config(DBRX_132B).layers[0]
    assert (layer.attention.num_kv_heads, layer.attention.qkv_clip) == (8, 8.0)
    assert layer.attention.rotary == Rotary(128, 500_000.0)
    assert layer.mlp == Experts(16, 4, Mlp(10752), Router(renormalize=True))
    weighted = DBRX_132B["ffn_config"] | {"moe_normalize_expert_weights": None}
    experts = from_hf_config(DBRX_132B | {"ffn_config": weighted}).layers[0].mlp
    assert isinstance(experts, Experts)
    assert not experts.router.renormalize


def test_experts_below_each_other_in_one_matrix_are_transposed_each():
    down = Source("w2", transposed=True, matrices=3)
    assert down.rows_of((3 * 5, 7)) == (3 * 7, 5)
    assert down.shape_of(3 * 7, 5) == (3 * 5, 7)


def test_starcoder_2_has_a_window_in_every_layer():
    assert {layer.attention.window for layer in from_hf_config(STARCODER2_3B).layers} == {4096}
    assert {layer.attention.window for layer in from_hf_config(STARCODER2_3B | {"sliding_window": None}).layers} == {
        None
    }


def test_stablelm_12b_has_norms_of_each_head_and_its_halves_side_by_side():
    layer = from_hf_config(STABLELM_2_12B).layers[0]
    assert (layer.attention.qk_norm_span, layer.parallel_residual, layer.pre_mlp_norm) == ("each_head", True, None)
    assert layer.attention.qk_norm == Norm("layer", 1e-5)


def test_the_first_stablelm_is_read_by_its_own_names():
    renamed = {"layer_norm_eps": "norm_eps", "partial_rotary_factor": "rope_pct"}
    config = {renamed.get(key, key): value for key, value in STABLELM_3B_4E1T.items()}
    first = from_hf_config(config | {"architectures": ["StableLMEpochForCausalLM"], "rope_pct": 0.5})
    expected = from_hf_config(STABLELM_3B_4E1T | {"partial_rotary_factor": 0.5})
    assert replace(first, architecture="StableLmForCausalLM") == expected


def test_nemotron_stores_a_norm_minus_1_and_olmo_none():
    assert from_hf_config(MINITRON_4B).final_norm == Norm("layer", 1e-5, offset=1.0, bias=True)
    assert from_hf_config(OLMO_7B).final_norm == Norm("layer", 1e-5, weight=False)


def test_command_r_is_as_long_as_its_authors_say():
    spec = from_hf_config(COMMAND_R)
    assert (spec.max_position, spec.logits_multiplier, spec.tied_head) == (131072, 0.0625, True)
    plus = from_hf_config(COMMAND_R_PLUS).layers[0].attention
    assert (plus.qk_norm, plus.qk_norm_span) == (Norm("layer", 1e-5), "each_head")


def test_each_fourth_layer_of_command_r7b_has_neither_window_nor_rotary_embedding():
    attentions = [layer.attention for layer in from_hf_config(COMMAND_R7B).layers]
    assert [attention.window for attention in attentions[:4]] == [4096, 4096, 4096, None]
    assert [attention.rotary is None for attention in attentions] == [False, False, False, True] * 8
    assert attentions[0].rotary == Rotary(128, 50_000.0, interleaved=True)


def test_only_the_last_layer_of_the_japanese_neox_has_a_bias():
    spec = from_hf_config(GPT_NEOX_JAPANESE_2_7B)
    assert [weight.name for weight in spec.weights if weight.name.endswith("o_bias")] == ["layers.31.o_bias"]
    assert not spec.layers[0].parallel_residual


@pytest.mark.parametrize("bare", [True, False])
def test_tensors_may_lack_the_name_of_the_model_without_its_head(bare):
    """openai-community/gpt2 is stored so, with lm_head left out."""
    names = {weight.sources[0].tensor for weight in from_hf_config(GPT2_SMALL).weights}
    tensors = {name.removeprefix("transformer.") if bare else name: StoredTensor("f32", (1, 1), 0, 4) for name in names}
    spec, warning = from_hf_checkpoint(GPT2_SMALL, tensors, lambda *_: b"")
    assert {source.tensor for weight in spec.weights for source in weight.sources} == set(tensors)
    assert (spec.tied_head, warning) == (True, None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2_SMALL | {"n_embd": None}, "n_embd is missing"),
        (GPT2_SMALL | {"n_layer": 0}, "n_layer is 0"),
        (GPT2_SMALL | {"n_head": 7}, "n_embd is 768, which n_head, 7, does not divide"),
        (GPT2_SMALL | {"n_positions": "1024"}, "n_positions is '1024'"),
        (FALCON_40B | {"num_kv_heads": 7}, "num_kv_heads is 7, which does not divide num_attention_heads, 128"),
        (FALCON_40B | {"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn is 3"),
        (REFINED_WEB_40B | {"n_head_kv": 7}, "n_head_kv is 7, which does not divide n_head, 128"),
        (OPT_125M | {"word_embed_proj_dim": 0}, "word_embed_proj_dim is 0"),
        (OPT_125M | {"do_layer_norm_before": 1}, "do_layer_norm_before is 1"),
        (PHI_2 | {"partial_rotary_factor": 0.01}, "partial_rotary_factor leaves 0 of 80"),
        (GPT_J_6B | {"rotary_dim": 257}, "rotary_dim is 257; it must lie between 1 and 256"),
        (GPT_J_6B | {"rotary_dim": 63}, "rotary_dim is 63; it must be even"),
        (CODEGEN_350M | {"n_head": 2}, "n_head is 2"),
        (GPT_NEO_125M | {"attention_types": [[["global"], 6]]}, "attention_types must name global or local for each"),
        (GPT_NEO_125M | {"attention_types": [[[], 2**70]]}, "attention_types must name global or local for each"),
        (
            BLOOM_560M | {"n_embed": 2**30, "num_attention_heads": 2**29},
            "num_attention_heads is 536870912; it must lie",
        ),
        (
            STABLELM_2_12B
            | {"num_hidden_layers": 4096, "num_attention_heads": 4096, "num_key_value_heads": 4096}
            | {"hidden_size": 65536},
            "more than 1048576 tensors in its layers",
        ),
        (GPT_NEO_125M | {"attention_types": [[["sparse"], 12]]}, "attention_types must name global or local for each"),
        (BLOOM_560M | {"n_embed": 1023}, "n_embed is 1023, which num_attention_heads, 16, does not divide"),
        (MPT_7B | {"attn_config": {"clip_qkv": -1}}, "clip_qkv is -1"),
        (COMMAND_R | {"logit_scale": 0}, "logit_scale is 0"),
        (DBRX_132B | {"attn_config": {"kv_n_heads": 5}}, "kv_n_heads is 5, which does not divide n_heads"),
        (DBRX_132B | {"ffn_config": {"moe_top_k": 17, "moe_num_experts": 16}}, "moe_top_k is 17"),
        (COMMAND_R7B | {"sliding_window": 0}, "sliding_window is 0"),
    ],
)
def test_a_bad_field_is_refused_by_the_name_that_the_family_gives_it(config, message):
    with pytest.raises(InvalidConfigError, match=message):
        from_hf_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2_SMALL | {"add_cross_attention": True}, "add_cross_attention is True"),
        (GPT2_SMALL | {"activation_function": "mish"}, "activation_function is 'mish'"),
        (FALCON_7B | {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        (BLOOM_560M | {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        (MPT_7B | {"attn_config": {"alibi": False}}, "alibi is False; True is supported"),
        (MPT_7B | {"attn_config": {"qk_ln": True}}, "qk_ln is True; False is supported"),
        (MPT_7B | {"no_bias": False}, "no_bias is False; True is supported"),
        (MPT_7B | {"logit_scale": "inv_sqrt_d_model"}, "logit_scale is 'inv_sqrt_d_model': not supported"),
        (COMMAND_R7B | {"use_qk_norm": True}, "use_qk_norm is True"),
        (DBRX_132B | {"ffn_config": {"moe_normalize_expert_weights": 2}}, "moe_normalize_expert_weights is 2"),
    ],
)
def test_what_the_description_cannot_express_is_refused_by_the_name_of_the_field(config, message):
    with pytest.raises(UnsupportedModelError, match=message):
        from_hf_config(config)
