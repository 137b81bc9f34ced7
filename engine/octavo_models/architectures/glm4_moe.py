"""GLM-4.5, 4.6 and 4.7: a rotary embedding of half of each head, and DeepSeek V3's mixture."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import dots1, glm, llama
from octavo_models.architectures.qwen3 import HF_QWEN3
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


GLM4_MOE = Architecture(("Glm4MoeForCausalLM",), from_hf)
