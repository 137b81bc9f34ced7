"""BLOOM: ALiBi, a LayerNorm of the embedding, q, k and v packed head by head."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import Heads, alibi_slopes
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_BLOOM = TensorMap(
    layers="transformer.h",
    outer={
        "embedding": at("transformer.word_embeddings"),
        "embedding_norm": at("transformer.word_embeddings_layernorm"),
        "final_norm": at("transformer.ln_f"),
        "head": at("lm_head"),
    },
    inner={
        "pre_attention_norm": at("input_layernorm"),
        "o": at("self_attention.dense"),
        "pre_mlp_norm": at("post_attention_layernorm"),
        "up": at("mlp.dense_h_to_4h"),
        "down": at("mlp.dense_4h_to_h"),
    },
)
NAMES = {
    "hidden_size": ("hidden_size", "n_embed"),
    "num_attention_heads": ("n_head", "num_attention_heads"),
    "num_hidden_layers": ("n_layer", "num_hidden_layers"),
    "max_position_embeddings": ("seq_length",),
}
DEFAULTS = {"max_position_embeddings": 2048}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES, DEFAULTS)
    source.refuse("apply_residual_connection_post_layernorm", True)
    heads, norm = source.heads(), source.layer_norm("layer_norm_epsilon")
    layer = _layer(heads, 4 * source.fields.integer("hidden_size"), norm)
    tensors = HF_BLOOM.updated(heads.packed("self_attention.query_key_value", groups=heads.num_kv))
    draft = source.draft([layer] * source.num_layers(), norm, tensors, tied_head=True)
    return replace(draft, embedding_norm=norm)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    heads, norm = source.heads(), source.layer_norm()
    layer = _layer(heads, source.fields.integer("feed_forward_length"), norm)
    draft = source.draft([layer] * source.num_layers(), GGUF_TENSORS.updated(heads.packed("attn_qkv")), norm)
    return replace(draft, embedding_norm=norm)


def _layer(heads: Heads, width: int, norm: Norm) -> Layer:
    attention = heads.attention(None, alibi_slopes=alibi_slopes(heads.num), qkv_bias=True, o_bias=True)
    return Layer(attention, Mlp(width, "gelu_tanh", gated=False, bias=True), norm, None, norm, None)


BLOOM = Architecture(("BloomForCausalLM",), from_hf, "bloom", from_gguf)
