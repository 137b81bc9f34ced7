"""ModernBERT: norms before both halves, a gated MLP, rotary embedding, and a window in two of three layers.

Its window of `local_attention` tokens lies half before and half behind a position.
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures.bert import names_classifier
from octavo_models.errors import UnsupportedModelError
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.pooling import Dense, DenseActivation, Pooling
from octavo_models.purpose import CLASSIFIER, classifier
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at, packed

GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0
HF_MODERNBERT = TensorMap(
    layers="model.layers",
    outer={
        "embedding": at("model.embeddings.tok_embeddings"),
        "embedding_norm": at("model.embeddings.norm"),
        "final_norm": at("model.final_norm"),
        "dense_0": at("head.dense"),
        "dense_0_norm": at("head.norm"),
        "dense_1": at("classifier"),
    },
    inner={
        "pre_attention_norm": at("attn_norm"),
        "o": at("attn.Wo"),
        "pre_mlp_norm": at("mlp_norm"),
        "down": at("mlp.Wo"),
    },
)


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    norm = Norm("layer", c.number("norm_eps", 1e-5), bias=c.boolean("norm_bias", False))
    every = c.integer("global_attn_every_n_layers", 3)
    local_layers = source.local_layers([i % every != 0 for i in range(count)])
    bias = c.boolean("attention_bias", False)
    full = heads.attention(
        rotary_from_hf(c, heads.dim, layer_type="full_attention", theta=c.number("global_rope_theta", GLOBAL_THETA)),
        qkv_bias=bias,
        o_bias=bias,
        causal=False,
    )
    local = replace(
        full,
        rotary=rotary_from_hf(
            c, heads.dim, layer_type="sliding_attention", theta=c.number("local_rope_theta", LOCAL_THETA)
        ),
        window=c.integer("local_attention", 128) // 2 + 1,
    )
    inner = c.integer("intermediate_size")
    mlp = Mlp(inner, source.activation("hidden_activation", "gelu"), bias=c.boolean("mlp_bias", False))
    layers = [
        Layer(local if each else full, mlp, norm if i else None, None, norm, None)  # the embedding is normed already
        for i, each in enumerate(local_layers)
    ]
    tensors = HF_MODERNBERT.updated(heads.packed("attn.Wqkv") | packed("mlp.Wi", ("gate", inner), ("up", inner)))
    return replace(
        source.draft(layers, norm, tensors),
        embedding_norm=norm,
        pooling=_pooling(source, norm) if names_classifier(source) else Pooling("cls"),
    )


def _pooling(source: HfConfig, norm: Norm) -> Pooling:
    c, hidden = source.fields, source.fields.integer("hidden_size")
    kind = c.text("classifier_pooling", "cls")
    if kind not in {"cls", "mean"}:
        raise UnsupportedModelError(f"classifier_pooling is {kind!r}; supported are cls and mean")
    activation = source.activation("classifier_activation", "gelu")
    known: dict[str, DenseActivation] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "relu": "relu", "silu": "silu"}
    if activation not in known:
        raise UnsupportedModelError(f"classifier_activation is {activation!r}; supported are {', '.join(known)}")
    before = Dense(hidden, hidden, c.boolean("classifier_bias", False), known[activation], norm)
    return classifier(c, "mean" if kind == "mean" else "cls", (before,), hidden)


MODERNBERT = Architecture(("ModernBertModel", "ModernBertForMaskedLM", f"ModernBert{CLASSIFIER}"), from_hf)
