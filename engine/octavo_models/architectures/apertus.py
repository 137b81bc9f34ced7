"""Apertus: Llama with norms of each head of q and k, a plain MLP, and an activation with two learned numbers a layer."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at, parameter

HF_APERTUS = HF_QWEN3.updated(
    {
        "pre_attention_norm": at("attention_layernorm"),
        "pre_mlp_norm": at("feedforward_layernorm"),
        "xielu_positive": parameter("mlp.act_fn.alpha_p"),
        "xielu_negative": parameter("mlp.act_fn.alpha_n"),
    }
)
THETA = 12_000_000.0


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count, norm = source.fields, source.heads(), source.num_layers(), llama.rms_norm(source, 1e-5)
    bias = c.boolean("attention_bias", False)
    rotary = rotary_from_hf(c, heads.dim, default_theta=THETA)
    attention = heads.attention(rotary, qk_norm=norm, qkv_bias=bias, o_bias=bias)
    learned = c.text("hidden_act", "xielu") == "xielu"
    mlp = Mlp(c.integer("intermediate_size"), "xielu" if learned else source.activation(), gated=False)
    return llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count, norm=norm, tensors=HF_APERTUS)


APERTUS = Architecture(("ApertusForCausalLM",), from_hf)
