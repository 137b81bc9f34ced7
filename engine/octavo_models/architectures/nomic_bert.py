"""NomicBERT: BERT with rotary embedding, a gated MLP and few biases. Published configs have GPT-2's names of fields."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures.bert import encoder_pooling
from octavo_models.errors import UnsupportedModelError
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.purpose import CLASSIFIER
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

NAMES = {
    "hidden_size": ("hidden_size", "n_embd"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "intermediate_size": ("intermediate_size", "n_inner"),
    "max_position_embeddings": ("max_position_embeddings", "max_trained_positions", "n_positions"),
    "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon"),
    "rope_theta": ("rope_theta", "rotary_emb_base"),
}
GATED = {"swiglu": "silu", "geglu": "gelu"}  # published activations, with a gate
DEFAULT_THETA = 1000.0
"""Only configs that transformers writes leave it out."""


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    published = c.text("activation_function", "swiglu")
    if published not in GATED:
        raise UnsupportedModelError(f"activation_function is {published!r}; supported are {', '.join(GATED)}")
    for name in (
        "prenorm",
        "use_rms_norm",
        "rotary_emb_interleaved",
        "parallel_block",
        "num_experts",
        "moe_every_n_layers",
    ):
        if c.raw(name):
            raise UnsupportedModelError(f"{name} is {c.raw(name)!r}: not supported")
    if c.number("rotary_emb_fraction", 1.0) != 1.0:
        raise UnsupportedModelError("rotary_emb_fraction is not 1: heads rotate whole in this architecture")
    bias = c.boolean("qkv_proj_bias", False)
    norm = Norm("layer", c.number("layer_norm_eps", 1e-12), bias=True)
    attention = heads.attention(
        rotary_from_hf(c, heads.dim, default_theta=DEFAULT_THETA), qkv_bias=bias, o_bias=bias, causal=False
    )
    activation = source.activation("hidden_act", GATED[published])
    mlp = Mlp(c.integer("intermediate_size"), activation, bias=c.boolean("mlp_fc1_bias", False))
    layer = Layer(attention, mlp, None, norm, None, norm, post_norms_sum=True)
    return replace(
        source.draft([layer] * source.num_layers(), None, _tensors().updated(heads.packed("attn.Wqkv"))),
        embedding_norm=norm,
        token_types=c.integer("type_vocab_size", 2, minimum=0),
        pooling=encoder_pooling(source),
    )


def _tensors() -> TensorMap:
    return TensorMap(
        layers="nomic_bert.encoder.layers",
        outer={
            "embedding": at("nomic_bert.embeddings.word_embeddings"),
            "token_types": at("nomic_bert.embeddings.token_type_embeddings"),
            "embedding_norm": at("nomic_bert.emb_ln"),
            "dense_0": at("nomic_bert.pooler.dense"),
            "dense_1": at("classifier"),
        },
        inner={
            "o": at("attn.out_proj"),
            "post_attention_norm": at("norm1"),
            "gate": at("mlp.fc12"),
            "up": at("mlp.fc11"),
            "down": at("mlp.fc2"),
            "post_mlp_norm": at("norm2"),
        },
    )


NOMIC_BERT = Architecture(("NomicBertModel", "NomicBertForMaskedLM", f"NomicBert{CLASSIFIER}"), from_hf)
