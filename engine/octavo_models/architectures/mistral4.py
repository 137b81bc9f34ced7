"""Mistral 4: latent attention with Ministral 3's factor on the query, and a softmax router with groups of experts."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import deepseek_v2, ministral3
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    router = replace(mixtures.grouped_router(source), scoring="softmax", correction=False)
    experts = deepseek_v2.mixture(source, router)
    draft = deepseek_v2.draft_from_hf(source, experts, 0)
    scaling = ministral3.query_scaling(source)
    layers = (replace(layer, attention=replace(layer.attention, query_scaling=scaling)) for layer in draft.layers)
    tensors = draft.tensors.updated(mixtures.stacked_parameters("mlp.experts", experts, transposed=False))
    return replace(draft, layers=tuple(layers), tensors=tensors)


MISTRAL4 = Architecture(("Mistral4ForCausalLM",), from_hf)
