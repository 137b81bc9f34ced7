"""GTE (Alibaba's "new" encoders, Snowflake's Arctic M 2.0): BERT with rotary embedding and a gated MLP.

Published configs stretch the rotary embedding by "ntk", with the formula of their authors' code: the base times the
factor, and all frequencies divided by factor ** (2 / dim).
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures.bert import encoder_pooling
from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Rotary, RotaryScaling
from octavo_models.purpose import CLASSIFIER
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at, packed

DEFAULT_THETA = 160_000.0
HF_GTE = TensorMap(
    layers="new.encoder.layer",
    outer={
        "embedding": at("new.embeddings.word_embeddings"),
        "token_types": at("new.embeddings.token_type_embeddings"),
        "embedding_norm": at("new.embeddings.LayerNorm"),
        "dense_0": at("new.pooler.dense"),
        "dense_1": at("classifier"),
    },
    inner={
        "o": at("attention.o_proj"),
        "post_attention_norm": at("attn_ln"),
        "down": at("mlp.down_proj"),
        "post_mlp_norm": at("mlp_ln"),
    },
)


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    kind = c.text("position_embedding_type", "rope")
    if kind != "rope":
        raise UnsupportedModelError(f"position_embedding_type is {kind!r}; supported is 'rope'")
    source.refuse("layer_norm_type", "rms_norm")
    source.refuse("logn_attention_scale", True)
    source.refuse("pack_qkv", False)
    norm, inner = source.layer_norm("layer_norm_eps"), c.integer("intermediate_size")
    attention = heads.attention(_rotary(c, heads.dim), qkv_bias=True, o_bias=True, causal=False)
    mlp = Mlp(inner, source.activation("hidden_act", "gelu"), down_bias=True)
    layer = Layer(attention, mlp, None, norm, None, norm, post_norms_sum=True)
    tensors = HF_GTE.updated(
        heads.packed("attention.qkv_proj") | packed("mlp.up_gate_proj", ("up", inner), ("gate", inner))
    )
    # Without its own scaling the length is the config's: it is the lengthened one already.
    plain = replace(source, fields=replace(c, values={k: v for k, v in c.values.items() if k != "rope_scaling"}))
    return replace(
        plain.draft([layer] * source.num_layers(), None, tensors),
        embedding_norm=norm,
        token_types=c.integer("type_vocab_size", 1, minimum=0),
        pooling=encoder_pooling(source),
    )


def _rotary(c: Fields, dim: int) -> Rotary:
    scaling = Fields(c.mapping("rope_scaling") or {})
    if scaling.text("type", scaling.text("rope_type", "")) != "ntk":
        return rotary_from_hf(c, dim, default_theta=DEFAULT_THETA)
    if scaling.has("mixed_b"):
        raise UnsupportedModelError("rope_scaling's mixed_b, a mixed NTK scaling: not supported")
    factor = scaling.number("factor")
    return Rotary(dim, c.number("rope_theta", 10000.0) * factor, scaling=RotaryScaling("linear", factor ** (2 / dim)))


GTE = Architecture(
    tuple(family + ending for family in ("New", "Gte") for ending in ("Model", "ForMaskedLM", CLASSIFIER)), from_hf
)
