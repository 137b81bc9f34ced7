"""OPT, and Galactica, which has neither biases nor norms' weights. The 350M has its norms on the residual stream."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.spec import LearnedPositions
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_OPT = TensorMap(
    layers="model.decoder.layers",
    outer={
        "embedding": at("model.decoder.embed_tokens"),
        "positions": at("model.decoder.embed_positions"),
        "project_in": at("model.decoder.project_in"),
        "final_norm": at("model.decoder.final_layer_norm"),
        "project_out": at("model.decoder.project_out"),
        "head": at("lm_head"),
    },
    inner={
        "pre_attention_norm": at("self_attn_layer_norm"),
        "q": at("self_attn.q_proj"),
        "k": at("self_attn.k_proj"),
        "v": at("self_attn.v_proj"),
        "o": at("self_attn.out_proj"),
        "post_attention_norm": at("self_attn_layer_norm"),
        "pre_mlp_norm": at("final_layer_norm"),
        "up": at("fc1"),
        "down": at("fc2"),
        "post_mlp_norm": at("final_layer_norm"),
    },
)
OFFSET = 2  # rows of the table before that of position 0


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    bias, affine = c.boolean("enable_bias", True), c.boolean("layer_norm_elementwise_affine", True)
    norm = Norm("layer", 1e-5, bias=affine, weight=affine)
    before = c.boolean("do_layer_norm_before", True)
    attention = heads.attention(None, qkv_bias=bias, o_bias=bias)
    mlp = Mlp(c.integer("ffn_dim"), source.activation("activation_function", "relu"), gated=False, bias=bias)
    if before:
        layer = Layer(attention, mlp, norm, None, norm, None)
    else:
        layer = Layer(attention, mlp, None, norm, None, norm, post_norms_sum=True)
    final = norm if before and not c.boolean("_remove_final_layer_norm", False) else None
    width, hidden = c.integer("word_embed_proj_dim", c.integer("hidden_size")), c.integer("hidden_size")
    return replace(
        source.draft([layer] * source.num_layers(), final, HF_OPT, tied_head=True),
        positions=LearnedPositions(c.integer("max_position_embeddings") + OFFSET, OFFSET),
        projected_embedding=width if width != hidden else None,
    )


OPT = Architecture(("OPTForCausalLM",), from_hf)
