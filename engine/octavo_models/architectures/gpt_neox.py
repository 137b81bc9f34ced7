"""GPT-NeoX and Pythia: attention and MLP side by side behind LayerNorms of their own, q, k and v packed head by head."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_GPT_NEOX = TensorMap(
    layers="gpt_neox.layers",
    outer={
        "embedding": at("gpt_neox.embed_in"),
        "final_norm": at("gpt_neox.final_layer_norm"),
        "head": at("embed_out"),
    },
    inner={
        "pre_attention_norm": at("input_layernorm"),
        "o": at("attention.dense"),
        "pre_mlp_norm": at("post_attention_layernorm"),
        "up": at("mlp.dense_h_to_4h"),
        "down": at("mlp.dense_4h_to_h"),
    },
)
NAMES = {
    "partial_rotary_factor": ("rotary_pct", "partial_rotary_factor"),
    "rope_theta": ("rotary_emb_base", "rope_theta"),
}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    norm = source.layer_norm("layer_norm_eps")
    bias = c.boolean("attention_bias", True)
    attention = heads.attention(rotary_from_hf(c, heads.dim, default_fraction=0.25), qkv_bias=bias, o_bias=bias)
    mlp = Mlp(c.integer("intermediate_size"), source.activation(default="gelu"), gated=False, bias=True)
    parallel = c.boolean("use_parallel_residual", True)
    layer = Layer(attention, mlp, norm, None, norm, None, parallel_residual=parallel)
    tensors = HF_GPT_NEOX.updated(heads.packed("attention.query_key_value", groups=heads.num_kv))
    return source.draft([layer] * source.num_layers(), norm, tensors)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    attention = heads.attention(rotary_from_gguf(m, heads.dim), qkv_bias=True, o_bias=True)
    mlp = Mlp(m.integer("feed_forward_length"), "gelu", gated=False, bias=True)
    parallel = m.boolean("use_parallel_residual", True)
    layer = Layer(attention, mlp, norm, None, norm, None, parallel_residual=parallel)
    return source.draft([layer] * source.num_layers(), GGUF_TENSORS.updated(heads.packed("attn_qkv")), norm)


GPT_NEOX = Architecture(("GPTNeoXForCausalLM",), from_hf, "gptneox", from_gguf)
