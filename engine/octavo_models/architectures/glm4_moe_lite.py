"""GLM-4.7-Flash: DeepSeek V3 with one dense layer."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import deepseek_v2
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft

DENSE_LAYERS = 1


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(defaults={"rms_norm_eps": 1e-5})
    experts = deepseek_v2.mixture(source, mixtures.grouped_router(source))
    return deepseek_v2.draft_from_hf(source, experts, DENSE_LAYERS)


GLM4_MOE_LITE = Architecture(("Glm4MoeLiteForCausalLM",), from_hf)
