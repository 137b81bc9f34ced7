"""Phi 1, 1.5 and 2: attention and MLP side by side behind one LayerNorm, and a bias for every product."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import Heads
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm, Rotary
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_PHI = TensorMap(
    layers="model.layers",
    outer={"embedding": at("model.embed_tokens"), "final_norm": at("model.final_layernorm"), "head": at("lm_head")},
    inner={
        "pre_attention_norm": at("input_layernorm"),
        "q": at("self_attn.q_proj"),
        "k": at("self_attn.k_proj"),
        "v": at("self_attn.v_proj"),
        "q_norm": at("self_attn.q_layernorm"),
        "k_norm": at("self_attn.k_layernorm"),
        "o": at("self_attn.dense"),
        "up": at("mlp.fc1"),
        "down": at("mlp.fc2"),
    },
)


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    norm = source.layer_norm("layer_norm_eps")
    mlp = Mlp(c.integer("intermediate_size"), source.activation(default="gelu_new"), gated=False, bias=True)
    rotary = rotary_from_hf(c, heads.dim, default_fraction=0.5)
    layer = _layer(heads, rotary, mlp, norm, qk_norm=c.boolean("qk_layernorm", False))
    return replace(source.draft([layer] * source.num_layers(), norm, HF_PHI), head_bias=True)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    mlp = Mlp(m.integer("feed_forward_length"), "gelu_tanh", gated=False, bias=True)
    layer = _layer(heads, rotary_from_gguf(m, heads.dim), mlp, norm, qk_norm=False)
    tensors = source.packed_if_stored(GGUF_TENSORS, heads)
    return replace(source.draft([layer] * source.num_layers(), tensors, norm), head_bias=True)


def _layer(heads: Heads, rotary: Rotary, mlp: Mlp, norm: Norm, *, qk_norm: bool) -> Layer:
    attention = heads.attention(rotary, qkv_bias=True, o_bias=True, qk_norm=norm if qk_norm else None)
    return Layer(attention, mlp, norm, None, None, None, parallel_residual=True)


PHI = Architecture(("PhiForCausalLM",), from_hf, "phi2", from_gguf)
