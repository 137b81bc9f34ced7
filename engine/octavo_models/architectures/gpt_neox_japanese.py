"""GPT-NeoX Japanese: GPT-NeoX with its halves one after the other and no biases but that of the last layer's o."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures.gpt_neox import HF_GPT_NEOX, NAMES
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, TensorMap

HF_GPT_NEOX_JAPANESE = TensorMap(
    layers="gpt_neox_japanese.layers",
    outer={
        name: replace(entry, modules=tuple(m.replace("gpt_neox.", "gpt_neox_japanese.") for m in entry.modules))
        for name, entry in HF_GPT_NEOX.outer.items()
    },
    inner={**HF_GPT_NEOX.inner, "o": At(("attention.dense",), bias="_bias")},
)


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads, count = source.fields, source.heads(), source.num_layers()
    norm = source.layer_norm("layer_norm_eps")
    width = c.integer("intermediate_multiple_size", 4) * c.integer("hidden_size")
    mlp = Mlp(width, source.activation(default="gelu"), gated=False)
    plain = heads.attention(rotary_from_hf(c, heads.dim))
    layers = [Layer(replace(plain, o_bias=i == count - 1), mlp, norm, None, norm, None) for i in range(count)]
    tensors = HF_GPT_NEOX_JAPANESE.updated(heads.packed("attention.query_key_value", groups=heads.num_kv))
    return source.draft(layers, norm, tensors, tied_head=True)


GPT_NEOX_JAPANESE = Architecture(("GPTNeoXJapaneseForCausalLM",), from_hf)
