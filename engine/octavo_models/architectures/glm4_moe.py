"""GLM-4.5, 4.6 and 4.7: a rotary embedding of half of each head, and DeepSeek V3's mixture."""

from __future__ import annotations

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import dots1, glm, llama
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, norm = source.fields, source.heads(), llama.rms_norm(source, 1e-5)
    attention = heads.attention(
        rotary_from_hf(c, heads.dim, default_fraction=glm.ROTARY_FRACTION),
        qk_norm=norm if c.boolean("use_qk_norm", False) else None,
        qkv_bias=c.boolean("attention_bias", False),
    )
    experts = dots1.experts_from_hf(source)
    return llama.draft_from_hf(
        source,
        [attention] * source.num_layers(),
        mlps=dots1.mlps_from_hf(source, experts, 1),
        norm=norm,
        tensors=HF_QWEN3.updated(mixtures.modules(experts.num_experts)),
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    """The blocks include layers that draft tokens, which are left out."""
    m, experts = source.fields, gguf_parts.experts(source, renormalize=True, scoring=2)
    count = source.num_layers() - m.integer("nextn_predict_layers", 0, minimum=0, maximum=source.num_layers() - 1)
    attention = gguf_parts.attention(source, qk_norm=source.norm() if source.has("q_norm", GGUF_TENSORS) else None)
    tensors = gguf_parts.renamed("pre_mlp_norm", "post_attention_norm", gguf_parts.expert_tensors(source, experts))
    return gguf_parts.draft(source, [attention] * count, gguf_parts.mlps(source, experts, count), tensors)


GLM4_MOE = Architecture(("Glm4MoeForCausalLM",), from_hf, "glm4moe", from_gguf)
