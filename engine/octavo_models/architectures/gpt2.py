"""GPT-2: learned positions, and matrices that its checkpoints on Hugging Face store transposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Layer, Mlp
from octavo_models.spec import LearnedPositions
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

NAMES = {
    "hidden_size": ("n_embd",),
    "num_attention_heads": ("n_head",),
    "num_hidden_layers": ("n_layer",),
    "max_position_embeddings": ("n_positions",),
}


def tensor_map(*, transposed: bool) -> TensorMap:
    """The places where GPT-2, and models that share its names, store all but q, k and v."""
    return TensorMap(
        layers="transformer.h",
        outer={
            "embedding": at("transformer.wte"),
            "positions": at("transformer.wpe"),
            "final_norm": at("transformer.ln_f"),
            "head": at("lm_head"),
        },
        inner={
            "pre_attention_norm": at("ln_1"),
            "o": at("attn.c_proj", transposed=transposed),
            "pre_mlp_norm": at("ln_2"),
            "up": at("mlp.c_fc", transposed=transposed),
            "down": at("mlp.c_proj", transposed=transposed),
        },
    )


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    scale = heads.dim**-0.5 if c.boolean("scale_attn_weights", True) else 1.0
    by_layer = c.boolean("scale_attn_by_inverse_layer_idx", False)
    attentions = [
        heads.attention(None, scale=scale / (i + 1) if by_layer else scale, qkv_bias=True, o_bias=True)
        for i in range(source.num_layers())
    ]
    tensors = tensor_map(transposed=True).updated(heads.packed("attn.c_attn", transposed=True))
    return draft_from_hf(source, attentions, tensors, activation="gelu_new")


def draft_from_hf(
    source: HfConfig, attentions: Sequence[Attention], tensors: TensorMap, *, activation: str
) -> SpecDraft:
    """GPT-2's decoder with the given attention in each layer; the activation is that of a config that names none."""
    c = source.fields
    source.refuse("add_cross_attention", True)
    norm = source.layer_norm("layer_norm_epsilon")
    width = c.integer("n_inner", 4 * c.integer("hidden_size"))
    mlp = Mlp(width, source.activation("activation_function", activation), gated=False, bias=True)
    layers = [Layer(attention, mlp, norm, None, norm, None) for attention in attentions]
    draft = source.draft(layers, norm, tensors, tied_head=True)
    return replace(draft, positions=LearnedPositions(draft.max_position))


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    attention = heads.attention(None, qkv_bias=True, o_bias=True)
    mlp = Mlp(m.integer("feed_forward_length"), "gelu_tanh", gated=False, bias=True)
    layer = Layer(attention, mlp, norm, None, norm, None)
    draft = source.draft([layer] * source.num_layers(), GGUF_TENSORS.updated(heads.packed("attn_qkv")), norm)
    return replace(draft, positions=LearnedPositions(draft.max_position))


GPT2 = Architecture(("GPT2LMHeadModel",), from_hf, "gpt2", from_gguf)
