"""Qwen 3: Qwen 2 with a norm over each head of q and k in place of the biases."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import qwen2
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at

HEAD_DIM = 128
QK_NORMS: dict[LayerWeight, At] = {"q_norm": at("self_attn.q_norm"), "k_norm": at("self_attn.k_norm")}
HF_QWEN3 = HF_LLAMA.updated(QK_NORMS)


def from_hf(source: HfConfig) -> SpecDraft:
    bias = source.fields.boolean("attention_bias", False)
    return qwen2.draft_from_hf(source, source.heads(HEAD_DIM), HF_QWEN3, qk_norm=True, qkv_bias=bias, o_bias=bias)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, attention = source.num_layers(), gguf_parts.attention(source, qk_norm=source.norm())
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count)


QWEN3 = Architecture(("Qwen3ForCausalLM",), from_hf, "qwen3", from_gguf)
