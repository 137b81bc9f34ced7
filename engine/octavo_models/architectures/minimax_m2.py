"""MiniMax M2: norms of q and k over all heads together, partial rotary, experts by a sigmoid with a correction."""

from __future__ import annotations

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, mixtral
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import parameter

THETA = 5_000_000.0
HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count, norm = source.fields, source.heads(HEAD_DIM), source.num_layers(), llama.rms_norm(source)
    fraction = c.integer("rotary_dim", heads.dim) / heads.dim
    rotary = rotary_from_hf(c, heads.dim, default_theta=THETA, default_fraction=fraction)
    normed = c.boolean("use_qk_norm", True)
    attention = heads.attention(rotary, qk_norm=norm if normed else None, qk_norm_span="width")
    experts = mixtures.experts_from_hf(source, llama.mlp_from_hf(source), Router("sigmoid", correction=True))
    names = mixtures.modules(experts.num_experts, block="block_sparse_moe", names=mixtral.PROJECTIONS)
    correction = parameter("block_sparse_moe.e_score_correction_bias")
    return llama.draft_from_hf(
        source,
        [attention] * count,
        mlps=[experts] * count,
        norm=norm,
        tensors=HF_QWEN3.updated({**names, "router_correction": correction}),
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=True, scoring=2)
    attention = gguf_parts.attention(source, qk_norm=source.norm(), qk_norm_span="width")
    tensors = gguf_parts.expert_tensors(source, experts)
    return gguf_parts.draft(source, [attention] * count, [experts] * count, tensors)


MINIMAX_M2 = Architecture(("MiniMaxM2ForCausalLM",), from_hf, "minimax-m2", from_gguf)
