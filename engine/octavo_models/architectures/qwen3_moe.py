"""Qwen 3's mixtures: Qwen 3 with experts in most layers."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen2_moe import is_sparse
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, norm = source.fields, source.heads(), llama.rms_norm(source)
    bias = c.boolean("attention_bias", False)
    window = source.window() if c.boolean("use_sliding_window", False) else None
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=window, qk_norm=norm, qkv_bias=bias, o_bias=bias)
    expert = Mlp(c.integer("moe_intermediate_size"), source.activation())
    router = Router("softmax", renormalize=c.boolean("norm_topk_prob", False))
    experts = mixtures.experts_from_hf(source, expert, router)
    return llama.draft_from_hf(
        source,
        [attention] * source.num_layers(),
        mlps=mixtures.mlps(source, llama.mlp_from_hf(source), experts, is_sparse(source)),
        norm=norm,
        tensors=HF_QWEN3.updated(mixtures.modules(experts.num_experts)),
    )


QWEN3_MOE = Architecture(("Qwen3MoeForCausalLM",), from_hf)
