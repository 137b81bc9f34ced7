"""FlexOlmo: OLMo 2 with experts in each layer."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import olmo2, olmoe
from octavo_models.architectures.olmo2 import HF_OLMO2
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft

THETA = 500_000.0
EPS = 1e-6


def from_hf(source: HfConfig) -> SpecDraft:
    count, experts = source.num_layers(), olmoe.experts_from_hf(source)
    return olmo2.draft_from_hf(
        source,
        [olmo2.attention_from_hf(source, eps=EPS, theta=THETA)] * count,
        mlps=[experts] * count,
        tensors=HF_OLMO2.updated(mixtures.modules(experts.num_experts)),
        eps=EPS,
    )


FLEX_OLMO = Architecture(("FlexOlmoForCausalLM",), from_hf)
