"""GPT-J: attention and MLP side by side behind one LayerNorm, an interleaved rotary embedding, and a head with a bias."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import gpt2
from octavo_models.heads import Heads
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Rotary
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_GPTJ = TensorMap(
    layers="transformer.h",
    outer={"embedding": at("transformer.wte"), "final_norm": at("transformer.ln_f"), "head": at("lm_head")},
    inner={
        "pre_attention_norm": at("ln_1"),
        "q": at("attn.q_proj"),
        "k": at("attn.k_proj"),
        "v": at("attn.v_proj"),
        "o": at("attn.out_proj"),
        "up": at("mlp.fc_in"),
        "down": at("mlp.fc_out"),
    },
)


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(gpt2.NAMES)
    return draft_from_hf(source, source.heads(), HF_GPTJ)


def draft_from_hf(source: HfConfig, heads: Heads, tensors: TensorMap) -> SpecDraft:
    """GPT-J's decoder."""
    c = source.fields
    dim = c.integer("rotary_dim", 64, maximum=heads.dim)
    if dim % 2:
        raise c.error("rotary_dim", f"is {dim}; it must be even")
    norm = source.layer_norm("layer_norm_epsilon")
    width = c.integer("n_inner", 4 * c.integer("hidden_size"))
    mlp = Mlp(width, source.activation("activation_function", "gelu_new"), gated=False, bias=True)
    attention = heads.attention(Rotary(dim, interleaved=True))
    layer = Layer(attention, mlp, norm, None, None, None, parallel_residual=True)
    return replace(source.draft([layer] * source.num_layers(), norm, tensors), head_bias=True)


GPTJ = Architecture(("GPTJForCausalLM",), from_hf)
