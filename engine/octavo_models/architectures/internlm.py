"""InternLM 1 and 3: Llama with biases on q, k, v and o, or on q, k and v, or on every product."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    bias = c.boolean("bias", True)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    return llama.draft_from_hf(source, [attention] * source.num_layers())


def from_hf_3(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    bias = c.boolean("bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=c.boolean("qkv_bias", False), o_bias=bias)
    mlp = Mlp(c.integer("intermediate_size"), source.activation(), bias=bias)
    return llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count)


INTERNLM = Architecture(("InternLMForCausalLM",), from_hf)
INTERNLM3 = Architecture(("InternLM3ForCausalLM",), from_hf_3)
