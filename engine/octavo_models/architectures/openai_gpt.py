"""GPT, the first: GPT-2 with its norms on the residual stream, and none after the last layer."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import gpt2
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Activation, Layer, Mlp
from octavo_models.spec import LearnedPositions
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

GPT2_TENSORS = gpt2.tensor_map(transposed=True)
HF_OPENAI_GPT = TensorMap(
    layers="transformer.h",
    outer={
        "embedding": at("transformer.tokens_embed"),
        "positions": at("transformer.positions_embed"),
        "head": at("lm_head"),
    },
    inner=GPT2_TENSORS.inner,
).updated({"post_attention_norm": at("ln_1"), "post_mlp_norm": at("ln_2")})


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(gpt2.NAMES)
    c, heads, norm = source.fields, source.heads(), source.layer_norm("layer_norm_epsilon")
    activation = source.activation("afn", "gelu")
    approximate: Activation = "gelu_tanh" if activation == "gelu" else activation  # its gelu always was
    attention = heads.attention(None, qkv_bias=True, o_bias=True)
    mlp = Mlp(4 * c.integer("hidden_size"), approximate, gated=False, bias=True)
    layer = Layer(attention, mlp, None, norm, None, norm, post_norms_sum=True)
    tensors = HF_OPENAI_GPT.updated(heads.packed("attn.c_attn", transposed=True))
    draft = source.draft([layer] * source.num_layers(), None, tensors, tied_head=True)
    return replace(draft, positions=LearnedPositions(draft.max_position))


OPENAI_GPT = Architecture(("OpenAIGPTLMHeadModel",), from_hf)
