"""Hunyuan: Llama with norms of each head of q and k, after the rotary embedding."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

HF_HUNYUAN = HF_LLAMA.updated({"q_norm": at("self_attn.query_layernorm"), "k_norm": at("self_attn.key_layernorm")})
EPS = 1e-5


def from_hf(source: HfConfig) -> SpecDraft:
    attentions = [attention_from_hf(source)] * source.num_layers()
    return llama.draft_from_hf(source, attentions, norm=llama.rms_norm(source, EPS), tensors=HF_HUNYUAN)


def attention_from_hf(source: HfConfig) -> Attention:
    c, heads = source.fields, source.heads()
    bias = c.boolean("attention_bias", False)
    norm = llama.rms_norm(source, EPS) if c.boolean("use_qk_norm", True) else None
    return heads.attention(
        rotary_from_hf(c, heads.dim), qk_norm=norm, qk_norm_after_rotary=norm is not None, qkv_bias=bias, o_bias=bias
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count = source.num_layers()
    return gguf_parts.draft(source, [attention_from_gguf(source)] * count, [gguf_parts.mlp(source)] * count)


def attention_from_gguf(source: GgufMetadata) -> Attention:
    return gguf_parts.attention(source, qk_norm=source.norm(), qk_norm_after_rotary=True)


HUNYUAN_V1_DENSE = Architecture(("HunYuanDenseV1ForCausalLM",), from_hf, "hunyuan-dense", from_gguf)
