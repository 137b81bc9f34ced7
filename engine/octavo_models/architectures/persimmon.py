"""Persimmon: GPT-NeoX's layout with its halves one after the other, LayerNorms of each head's q and k, squared ReLU."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures.phi import HF_PHI
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

HF_PERSIMMON = HF_PHI.updated(
    {
        "pre_mlp_norm": at("post_attention_layernorm"),
        "up": at("mlp.dense_h_to_4h"),
        "down": at("mlp.dense_4h_to_h"),
    }
)


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    norm = source.layer_norm("layer_norm_eps")
    attention = heads.attention(
        rotary_from_hf(c, heads.dim, default_fraction=0.5),
        qk_norm=norm if c.boolean("qk_layernorm", True) else None,
        qkv_bias=True,
        o_bias=True,
    )
    mlp = Mlp(c.integer("intermediate_size"), source.activation(default="relu2"), gated=False, bias=True)
    layer = Layer(attention, mlp, norm, None, norm, None)
    tensors = HF_PERSIMMON.updated(heads.packed("self_attn.query_key_value", groups=heads.num_kv))
    return source.draft([layer] * source.num_layers(), norm, tensors)


PERSIMMON = Architecture(("PersimmonForCausalLM",), from_hf)
