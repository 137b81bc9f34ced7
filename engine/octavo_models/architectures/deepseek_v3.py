"""DeepSeek V3, V3.1 and R1, and Kimi K2: DeepSeek V2 with a sigmoid router that a correction and groups of experts guide."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import deepseek_v2
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft

DENSE_LAYERS = 3


def from_hf(source: HfConfig) -> SpecDraft:
    experts = deepseek_v2.mixture(source, mixtures.grouped_router(source))
    return deepseek_v2.draft_from_hf(source, experts, DENSE_LAYERS)


DEEPSEEK_V3 = Architecture(("DeepseekV3ForCausalLM",), from_hf)
