"""Gemma 4: heads of another size in layers without a window, embeddings for each layer, shared keys, or experts.

Layers without a window may take their values from the product that makes their keys. The mixture of experts lies beside
the MLP, with norms of its own. Its published checkpoints also take images and sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import gemma, gemma3n
from octavo_models.architectures.gemma2 import soft_cap
from octavo_models.architectures.gemma3 import HF_GEMMA3
from octavo_models.fields import MOST_HEADS, Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import Heads, even
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, BesideMlp, Experts, Layer, Mlp, Norm, PerLayerInput, Rotary, Router
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec import PerLayerEmbedding
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at, parameter

PATTERN = 6  # each sixth layer has no window, and the last one
GLOBAL_HEAD_DIM = 512
NEVER = 1e29
ROTARY = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
EXPERTS: dict[LayerWeight, At] = {
    "router": at("router.proj"),
    "router_norm": parameter("router.scale"),
    "expert_scales": parameter("router.per_expert_scale"),
    "experts_norm": at("pre_feedforward_layernorm_2"),
    "post_experts_norm": at("post_feedforward_layernorm_2"),
    "post_shared_norm": at("post_feedforward_layernorm_1"),
    "shared_gate": at("mlp.gate_proj"),
    "shared_up": at("mlp.up_proj"),
    "shared_down": at("mlp.down_proj"),
}
GGUF_EXPERTS: dict[LayerWeight, At] = {
    "router_norm": replace(at("ffn_gate_inp"), weight=".scale"),
    "expert_scales": replace(at("ffn_down_exps"), weight=".scale"),
    "experts_norm": at("pre_ffw_norm_2"),
    "post_experts_norm": at("post_ffw_norm_2"),
    "post_shared_norm": at("post_ffw_norm_1"),
    "shared_gate": at("ffn_gate"),
    "shared_up": at("ffn_up"),
    "shared_down": at("ffn_down"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """The attention of layers with a window, or of those without."""

    heads: Heads
    rotary: Rotary
    values_are_keys: bool = False


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(defaults={"rope_parameters": ROTARY})
    c, count = source.fields, source.num_layers()
    if c.raw("use_bidirectional_attention") == "all":
        raise c.error("use_bidirectional_attention", "is 'all': an encoder, which can't generate")
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6))
    activation = source.activation("hidden_activation", "gelu_pytorch_tanh")
    local_layers = [*source.local_layers([(i + 1) % PATTERN != 0 for i in range(count)])[:-1], False]
    same = c.boolean("attention_k_eq_v", False)
    own, other = source.heads(), _global_heads(c, source.heads(), same=same, layer=local_layers.index(False))
    local = Kind(own, rotary_from_hf(c, own.dim, layer_type="sliding_attention"))
    full = Kind(other, rotary_from_hf(c, other.dim, layer_type="full_attention"), same)
    kv_from = gemma3n.sources(c, "num_kv_shared_layers", local_layers, c.integer("num_kv_shared_layers", 0, minimum=0))
    width, wide = c.integer("intermediate_size"), 2 if c.boolean("use_double_wide_mlp", False) else 1
    mlps: list[Mlp | Experts] = [Mlp(width * (1 if shared is None else wide), activation) for shared in kv_from]
    tensors = HF_GEMMA3.updated({"layer_scale": parameter("layer_scalar")})
    if c.boolean("enable_moe_block", False):
        expert = Mlp(c.integer("moe_intermediate_size"), activation)
        num = mixtures.num_experts(source)
        mixture = _experts(num, c.integer("top_k_experts", maximum=num), expert, norm, c.integer("hidden_size"))
        mlps = [replace(mixture, shared=mlp) for mlp in mlps if isinstance(mlp, Mlp)]
        tensors = tensors.updated({**EXPERTS, **mixtures.stacked_parameters("experts", mixture, transposed=False)})
    size = 0 if "hidden_size_per_layer_input" in c.values else 256
    each, embedding = None, None
    if size := c.integer("hidden_size_per_layer_input", size, minimum=0):
        each = PerLayerInput(size, activation, norm)
        embedding = PerLayerEmbedding(c.integer("vocab_size_per_layer_input", 262_144), size, norm)
        tensors = replace(tensors.updated(gemma3n.PER_LAYER), outer={**tensors.outer, **gemma3n.PER_LAYER_OUTER})
    window, bias = c.integer("sliding_window", 512), c.boolean("attention_bias", False)
    attentions = _attentions(local_layers, local, full, kv_from, window, norm, bias=bias)
    draft = source.draft(_layers(attentions, mlps, norm, each), norm, tensors, tied_head=True)
    return replace(
        gemma.scaled(draft, source),
        per_layer_embedding=embedding,
        logits_soft_cap=soft_cap(c, "final_logit_softcapping"),
        max_position=c.integer("max_position_embeddings"),
    )


def _global_heads(c: Fields, local: Heads, *, same: bool, layer: int) -> Heads:
    """The heads of layers without a window, as published configs say it, or as transformers writes it of each layer."""
    of_layers = c.mapping("per_layer_config")
    if of_layers is not None:
        own = of_layers.get(str(layer), {})
        fields = Fields(own if isinstance(own, dict) else {})
        dim, kv = fields.integer("head_dim", local.dim), fields.integer("num_key_value_heads", local.num_kv)
    else:
        dim = c.integer("global_head_dim", GLOBAL_HEAD_DIM)
        kv = c.integer("num_global_key_value_heads", local.num_kv, maximum=MOST_HEADS) if same else local.num_kv
    if local.num % kv:
        raise c.error("num_global_key_value_heads", f"is {kv}, which does not divide {local.num} heads")
    return Heads(local.num, kv, even(c, "global_head_dim", dim))


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, norm = source.fields, source.norm()
    local_layers = gguf_parts.local_layers(source, PATTERN)
    kv_heads = gguf_parts.each_layer(source, "attention.head_count_kv")
    num = m.integer("attention.head_count", maximum=MOST_HEADS)

    def heads(*, local: bool) -> Heads:
        name = "attention.key_length_swa" if local else "attention.key_length"
        dim = even(m, name, m.integer(name, m.integer("attention.key_length")))
        num_kv = next((n for n, each in zip(kv_heads, local_layers, strict=True) if each == local), num)
        if num % num_kv:
            raise m.error("attention.head_count_kv", f"is {num_kv}, which does not divide {num} heads")
        return Heads(num, num_kv, dim)

    own, other = heads(local=True), heads(local=False)
    theta = m.number("rope.freq_base", 1_000_000.0)
    whole = Fields(
        {key: value for key, value in m.values.items() if not key.endswith("rope.dimension_count")}, m.prefix
    )
    factors = source.rope_factors
    if factors is not None:  # pairs that do not turn are divided by 1e30
        factors = [min(factor, NEVER) if isinstance(factor, float) else factor for factor in factors]
    rotary = rotary_from_gguf(whole, other.dim, theta=theta, factors=factors)
    local_rotary = rotary_from_gguf(whole, own.dim, theta=m.number("rope.freq_base_swa", 10_000.0), scaled=False)
    first_full = local_layers.index(False) if False in local_layers else 0
    same = f"blk.{first_full}.attn_v.weight" not in source.tensors
    shared = m.integer("attention.shared_kv_layers", 0, minimum=0)
    kv_from = gemma3n.sources(m, "attention.shared_kv_layers", local_layers, shared)
    attentions = _attentions(
        local_layers,
        Kind(own, local_rotary),
        Kind(other, rotary, same),
        kv_from,
        m.integer("attention.sliding_window", 512),
        norm,
    )
    mlps: list[Mlp | Experts] = [
        Mlp(width, "gelu_tanh") for width in gguf_parts.each_layer(source, "feed_forward_length")
    ]
    tensors = GGUF_TENSORS.updated({"layer_scale": at("layer_output_scale")})
    if m.integer("expert_count", 0, minimum=0):
        plain = gguf_parts.experts(source, renormalize=True)
        expert = replace(plain.expert, activation="gelu_tanh")
        hidden = m.integer("embedding_length")
        mixture = _experts(plain.num_experts, plain.num_experts_per_token, expert, norm, hidden)
        mlps = [replace(mixture, shared=mlp) for mlp in mlps if isinstance(mlp, Mlp)]
        tensors = gguf_parts.expert_tensors(source, mixture, tensors.updated(GGUF_EXPERTS))
    each, embedding = gemma3n.per_layer_from_gguf(source, 0)
    if each is not None:
        tensors = replace(
            tensors.updated(gemma3n.GGUF_PER_LAYER), outer={**tensors.outer, **gemma3n.GGUF_PER_LAYER_OUTER}
        )
    return replace(
        gemma.scaled_from_gguf(source.draft(_layers(attentions, mlps, norm, each), tensors)),
        per_layer_embedding=embedding,
        logits_soft_cap=m.number("final_logit_softcapping") if m.has("final_logit_softcapping") else None,
        max_position=m.integer("context_length"),
    )


def _experts(num: int, per_token: int, expert: Mlp, norm: Norm, hidden: int) -> Experts:
    router = Router(logits_multiplier=hidden**-0.5, expert_scales=True)
    return Experts(num, per_token, expert, router, beside=BesideMlp(norm, norm, norm, norm))


def _attentions(
    local_layers: Sequence[bool],
    local: Kind,
    full: Kind,
    kv_from: Sequence[int | None],
    window: int,
    norm: Norm,
    *,
    bias: bool = False,
) -> list[Attention]:
    def attention(kind: Kind, **fields: object) -> Attention:
        return kind.heads.attention(
            kind.rotary,
            scale=1.0,
            qk_norm=norm,
            v_norm=replace(norm, weight=False),
            qkv_bias=bias,
            o_bias=bias,
            values_are_keys=kind.values_are_keys,
            **fields,
        )

    sliding, whole = attention(local, window=window), attention(full)
    return [
        replace(sliding if is_local else whole, kv_from_layer=source)
        for is_local, source in zip(local_layers, kv_from, strict=True)
    ]


def _layers(
    attentions: Sequence[Attention], mlps: Sequence[Mlp | Experts], norm: Norm, each: PerLayerInput | None
) -> list[Layer]:
    return [
        Layer(attention, mlp, norm, norm, norm, norm, per_layer=each, scaled=True)
        for attention, mlp in zip(attentions, mlps, strict=True)
    ]


GEMMA4 = Architecture(("Gemma4ForCausalLM",), from_hf, "gemma4", from_gguf)
