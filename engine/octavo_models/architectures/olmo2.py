"""OLMo 2: norms after both halves alone, and norms of q and k over all heads together."""

from __future__ import annotations

from collections.abc import Sequence

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Experts, Layer, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_OLMO2 = HF_QWEN3.updated(
    {"post_attention_norm": at("post_attention_layernorm"), "post_mlp_norm": at("post_feedforward_layernorm")}
)
EPS = 1e-5


def from_hf(source: HfConfig) -> SpecDraft:
    return draft_from_hf(source, [attention_from_hf(source)] * source.num_layers())


def attention_from_hf(source: HfConfig, *, eps: float = EPS, theta: float = 10_000.0) -> Attention:
    """Attention with a norm of q and one of k, each over all heads."""
    c, heads = source.fields, source.heads()
    bias, norm = c.boolean("attention_bias", False), llama.rms_norm(source, eps)
    rotary = rotary_from_hf(c, heads.dim, layer_type="full_attention", default_theta=theta)
    return heads.attention(rotary, qk_norm=norm, qk_norm_span="width", qkv_bias=bias, o_bias=bias)


def draft_from_hf(
    source: HfConfig,
    attentions: Sequence[Attention],
    *,
    mlps: Sequence[Mlp | Experts] | None = None,
    tensors: TensorMap = HF_OLMO2,
    eps: float = EPS,
) -> SpecDraft:
    """A decoder with norms after both halves of a layer and none before."""
    norm, mlps = llama.rms_norm(source, eps), mlps or [llama.mlp_from_hf(source)] * len(attentions)
    layers = [Layer(attention, mlp, None, norm, None, norm) for attention, mlp in zip(attentions, mlps, strict=True)]
    return source.draft(layers, norm, tensors)


OLMO2 = Architecture(("Olmo2ForCausalLM",), from_hf)
