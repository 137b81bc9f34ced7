"""OLMoE: Llama with norms of q and k over all heads together, and experts in each layer."""

from __future__ import annotations

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, olmo2
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.errors import UnsupportedModelError
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Router
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    if source.fields.has("clip_qkv"):
        raise UnsupportedModelError("clip_qkv, which follows the norms of q and k here, is not supported")
    count, experts = source.num_layers(), experts_from_hf(source)
    return llama.draft_from_hf(
        source,
        [olmo2.attention_from_hf(source)] * count,
        mlps=[experts] * count,
        norm=llama.rms_norm(source, olmo2.EPS),
        tensors=HF_QWEN3.updated(mixtures.modules(experts.num_experts)),
    )


def experts_from_hf(source: HfConfig) -> Experts:
    router = Router("softmax", renormalize=source.fields.boolean("norm_topk_prob", False))
    return mixtures.experts_from_hf(source, llama.mlp_from_hf(source), router)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=False)
    attention = gguf_parts.attention(source, qk_norm=source.norm(), qk_norm_span="width")
    tensors = gguf_parts.expert_tensors(source, experts)
    return gguf_parts.draft(source, [attention] * count, [experts] * count, tensors)


OLMOE = Architecture(("OlmoeForCausalLM",), from_hf, "olmoe", from_gguf)
