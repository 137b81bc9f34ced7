"""Falcon: BLOOM's tensors, attention and MLP side by side. The first models were published as RefinedWeb.

7B has one KV head and one LayerNorm a layer, 40B and 180B several KV heads and two, 11B several and one; the 1B and 7B of
the RefinedWeb paper ("rw") compute their halves one after the other, with ALiBi.
"""

from __future__ import annotations

import math
from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures.bloom import HF_BLOOM
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import alibi_slopes
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at

TWO_NORMS: dict[LayerWeight, At] = {"pre_attention_norm": at("ln_attn"), "pre_mlp_norm": at("ln_mlp")}
GGUF_TWO_NORMS: dict[LayerWeight, At] = {"pre_attention_norm": at("attn_norm_2"), "pre_mlp_norm": at("attn_norm")}

NAMES = {  # the second ones are RefinedWeb's
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
}
DEFAULTS = {"max_position_embeddings": 2048}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES, DEFAULTS)
    c = source.fields
    source.refuse("apply_residual_connection_post_layernorm", True)
    new = c.boolean("new_decoder_architecture", c.raw("model_type") == "RefinedWeb")
    heads = source.heads()
    if not new:
        heads = replace(heads, num_kv=1 if c.boolean("multi_query", True) else heads.num)
    norm = source.layer_norm("layer_norm_epsilon")
    bias = c.boolean("bias", False)
    if c.boolean("alibi", False):
        slopes = tuple(slope / math.sqrt(heads.dim) for slope in alibi_slopes(heads.num))
        attention = heads.attention(None, alibi_slopes=slopes, qkv_bias=bias, o_bias=bias)
    else:
        attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    inner = c.integer("ffn_hidden_size", 4 * c.integer("hidden_size"))
    mlp = Mlp(inner, source.activation("activation", "gelu"), gated=False, bias=bias)
    parallel = new or c.boolean("parallel_attn", True)
    two = not parallel or (new and c.integer("num_ln_in_parallel_attn", 2, maximum=2) == 2)
    tensors = HF_BLOOM.updated(heads.packed("self_attention.query_key_value", groups=heads.num_kv))
    layer = Layer(attention, mlp, norm, None, norm if two else None, None, parallel_residual=parallel)
    return source.draft(
        [layer] * source.num_layers(),
        norm,
        tensors.updated(TWO_NORMS) if two and parallel else tensors,
        tied_head=True,
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    tensors = GGUF_TENSORS.updated(heads.packed("attn_qkv"))
    two = "blk.0.attn_norm_2.weight" in source.tensors
    attention = heads.attention(rotary_from_gguf(m, heads.dim))
    mlp = Mlp(m.integer("feed_forward_length"), "gelu", gated=False)
    layer = Layer(attention, mlp, norm, None, norm if two else None, None, parallel_residual=True)
    return source.draft([layer] * source.num_layers(), tensors.updated(GGUF_TWO_NORMS) if two else tensors, norm)


FALCON = Architecture(("FalconForCausalLM", "RWForCausalLM"), from_hf, "falcon", from_gguf)
