"""What configs of the families with LayerNorm, learned positions or ALiBi mean, beyond their sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from published_layer_norm import (
    FALCON_7B,
    FALCON_11B,
    FALCON_40B,
    FALCON_RW_1B,
    GPT2_SMALL,
    OPT_125M,
    OPT_350M,
    PHI_2,
    PYTHIA_160M,
    REFINED_WEB_7B,
    REFINED_WEB_40B,
)

from octavo_models import InvalidConfigError, UnsupportedModelError, from_hf_checkpoint, from_hf_config
from octavo_models.heads import alibi_slopes
from octavo_models.spec import LearnedPositions
from octavo_models.stored_tensor import StoredTensor


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
    ],
)
def test_what_the_description_cannot_express_is_refused_by_the_name_of_the_field(config, message):
    with pytest.raises(UnsupportedModelError, match=message):
        from_hf_config(config)
