"""Mixtral: Mistral with a mixture of experts in each layer."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

THETA = 1_000_000.0
PROJECTIONS = ("w1", "w3", "w2")


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    attention = heads.attention(rotary_from_hf(c, heads.dim, default_theta=THETA), window=source.window())
    experts = mixtures.experts_from_hf(source, llama.mlp_from_hf(source), Router("softmax", renormalize=True))
    names = mixtures.modules(experts.num_experts, block="block_sparse_moe", names=PROJECTIONS)
    return llama.draft_from_hf(
        source,
        [attention] * count,
        mlps=[experts] * count,
        norm=llama.rms_norm(source, default_eps=1e-5),
        tensors=HF_LLAMA.updated(names),
    )


MIXTRAL = Architecture(("MixtralForCausalLM",), from_hf)
