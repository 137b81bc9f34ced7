"""StarCoder 2: Llama with LayerNorm, an MLP that is not gated, and a bias for every product."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

HF_STARCODER2 = HF_LLAMA.updated({"up": at("mlp.c_fc"), "down": at("mlp.c_proj")})


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    bias = c.boolean("use_bias", True)
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=source.window(), qkv_bias=bias, o_bias=bias)
    mlp = Mlp(c.integer("intermediate_size"), source.activation(default="gelu_pytorch_tanh"), gated=False, bias=bias)
    norm = source.layer_norm("norm_epsilon")
    return llama.draft_from_hf(
        source, [attention] * count, mlps=[mlp] * count, norm=norm, tensors=HF_STARCODER2, tied_head=True
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    window = m.integer("attention.sliding_window") if m.has("attention.sliding_window") else None
    attention = heads.attention(rotary_from_gguf(m, heads.dim), window=window, qkv_bias=True, o_bias=True)
    mlp = Mlp(m.integer("feed_forward_length"), "gelu_tanh", gated=False, bias=True)
    return source.draft([Layer(attention, mlp, norm, None, norm, None)] * source.num_layers(), GGUF_TENSORS, norm)


STARCODER2 = Architecture(("Starcoder2ForCausalLM",), from_hf, "starcoder2", from_gguf)
