"""gpt-oss: attention sinks, a window in each second layer, biases, and experts with a clamped SwiGLU.

All experts of a layer share a tensor; rows of an expert's gate and up alternate. The published checkpoints hold these
tensors in MXFP4; copies in bfloat16 have the layout that is described here.
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.errors import UnsupportedModelError
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at, parameter

HEAD_DIM = 64
THETA = 150_000.0
WINDOW = 128
CLAMP = {"swiglu_alpha": 1.702, "swiglu_limit": 7.0}  # that the activation has


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(HEAD_DIM), source.num_layers()
    for name, value in CLAMP.items():
        if c.number(name, value) != value:
            raise UnsupportedModelError(f"{name} is {c.number(name):g}; supported is {value:g}")
    bias = c.boolean("attention_bias", True)
    full = heads.attention(rotary_from_hf(c, heads.dim, default_theta=THETA), sinks=True, qkv_bias=bias, o_bias=bias)
    sliding = replace(full, window=c.integer("sliding_window", WINDOW))
    local_layers = source.local_layers([i % 2 == 0 for i in range(count)])
    expert = Mlp(c.integer("intermediate_size"), "swiglu_clamped", bias=True)
    experts = mixtures.experts_from_hf(source, expert, Router("softmax_of_chosen", bias=True))
    names: dict[LayerWeight, At] = {
        "sinks": parameter("self_attn.sinks"),
        "router": at("mlp.router"),
        **mixtures.stacked_parameters("mlp.experts", experts, interleaved=True),
    }
    return llama.draft_from_hf(
        source,
        [sliding if local else full for local in local_layers],
        mlps=[experts] * count,
        norm=llama.rms_norm(source, 1e-5),
        tensors=HF_LLAMA.updated(names),
    )


GPT_OSS = Architecture(("GptOssForCausalLM",), from_hf)
