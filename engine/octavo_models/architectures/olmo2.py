"""OLMo 2: norms after both halves alone, and norms of q and k over all heads together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Experts, Layer, Mlp
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_OLMO2 = HF_QWEN3.updated(
    {"post_attention_norm": at("post_attention_layernorm"), "post_mlp_norm": at("post_feedforward_layernorm")}
)
EPS = 1e-5
PATTERN = 4  # each fourth layer of OLMo 3 has no window


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


def from_gguf(source: GgufMetadata) -> SpecDraft:
    """OLMo 3's files go by the same name; their layers with a window have a rotary embedding that nothing scales."""
    m, heads, count, window = source.fields, source.heads(), source.num_layers(), gguf_parts.window(source)
    full = gguf_parts.attention(source, qk_norm=source.norm(), qk_norm_span="width")
    theta = m.number("rope.freq_base_swa", m.number("rope.freq_base", 10_000.0))
    local = rotary_from_gguf(m, heads.dim, theta=theta, scaled=False)
    sliding = full if window is None else replace(full, rotary=local, window=window)
    attentions = [sliding if local else full for local in gguf_parts.local_layers(source, PATTERN)]
    return gguf_parts.draft(source, attentions, [gguf_parts.mlp(source)] * count, before=False, after=True)


OLMO2 = Architecture(("Olmo2ForCausalLM",), from_hf, "olmo2", from_gguf)
