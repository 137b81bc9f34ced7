"""Phi-3.5-MoE: Llama with LayerNorm and experts in each layer, which a sparse mixer chooses and weighs."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, mixtral
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.errors import UnsupportedModelError
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Norm, Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    bias = c.boolean("attention_bias", False)
    rotary = rotary_from_hf(c, heads.dim, default_theta=mixtral.THETA)
    attention = heads.attention(rotary, window=source.window(), qkv_bias=bias, o_bias=bias)
    router = Router("sparse_mixer", renormalize=False, jitter=c.number("router_jitter_noise", 0.01))
    experts = mixtures.experts_from_hf(source, llama.mlp_from_hf(source), router)
    if experts.num_experts_per_token != 2:
        raise UnsupportedModelError(
            f"num_experts_per_tok is {experts.num_experts_per_token}; the sparse mixer is defined for 2"
        )
    names = mixtures.modules(experts.num_experts, block="block_sparse_moe", names=mixtral.PROJECTIONS)
    draft = llama.draft_from_hf(
        source,
        [attention] * count,
        mlps=[experts] * count,
        norm=Norm("layer", c.number("rms_norm_eps", 1e-5), bias=True),
        tensors=HF_LLAMA.updated(names),
    )
    return replace(draft, head_bias=c.boolean("lm_head_bias", False))


PHIMOE = Architecture(("PhimoeForCausalLM", "PhiMoEForCausalLM"), from_hf)
