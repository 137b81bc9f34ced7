"""BERT, and the families that differ in their names and positions alone: RoBERTa, XLM-RoBERTa, CamemBERT.

Norms are on the residual stream; the embedding is the sum of a token's, a position's and a segment's rows, normed.
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.errors import UnsupportedModelError
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.pooling import Dense, Pooling
from octavo_models.purpose import CLASSIFIER, classifier
from octavo_models.spec import LearnedPositions
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at


def tensor_map(prefix: str, before: str, scores: str) -> TensorMap:
    """The places where a model called `prefix` keeps its weights; `before` and `scores` are a classifier's two layers."""
    return TensorMap(
        layers=f"{prefix}.encoder.layer",
        outer={
            "embedding": at(f"{prefix}.embeddings.word_embeddings"),
            "positions": at(f"{prefix}.embeddings.position_embeddings"),
            "token_types": at(f"{prefix}.embeddings.token_type_embeddings"),
            "embedding_norm": at(f"{prefix}.embeddings.LayerNorm"),
            "dense_0": at(before),
            "dense_1": at(scores),
        },
        inner={
            "q": at("attention.self.query"),
            "k": at("attention.self.key"),
            "v": at("attention.self.value"),
            "o": at("attention.output.dense"),
            "post_attention_norm": at("attention.output.LayerNorm"),
            "up": at("intermediate.dense"),
            "down": at("output.dense"),
            "post_mlp_norm": at("output.LayerNorm"),
        },
    )


HF_BERT = tensor_map("bert", "bert.pooler.dense", "classifier")
HF_ROBERTA = tensor_map("roberta", "classifier.dense", "classifier.out_proj")


def from_hf(source: HfConfig) -> SpecDraft:
    return draft_from_hf(source, HF_BERT, 0)


def roberta_from_hf(source: HfConfig) -> SpecDraft:
    """Positions begin behind that of the padding token."""
    return draft_from_hf(source, HF_ROBERTA, source.fields.integer("pad_token_id", 1, minimum=0) + 1)


def draft_from_hf(source: HfConfig, tensors: TensorMap, first_position: int) -> SpecDraft:
    """The encoder whose position 0 is row `first_position` of the table."""
    c, heads = source.fields, source.heads()
    source.refuse("is_decoder", True)
    source.refuse("add_cross_attention", True)
    kind = c.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UnsupportedModelError(f"position_embedding_type is {kind!r}; supported is 'absolute'")
    norm = source.layer_norm("layer_norm_eps")
    attention = heads.attention(None, qkv_bias=True, o_bias=True, causal=False)
    mlp = Mlp(c.integer("intermediate_size"), source.activation("hidden_act", "gelu"), gated=False, bias=True)
    layer = Layer(attention, mlp, None, norm, None, norm, post_norms_sum=True)
    draft = source.draft([layer] * source.num_layers(), None, tensors)
    if draft.max_position <= first_position:
        raise c.error("max_position_embeddings", f"is {draft.max_position}; the first position is row {first_position}")
    return replace(
        draft,
        embedding_norm=norm,
        positions=LearnedPositions(draft.max_position, first_position),
        max_position=draft.max_position - first_position,
        token_types=c.integer("type_vocab_size", 2, minimum=0),
        pooling=encoder_pooling(source),
    )


def encoder_pooling(source: HfConfig) -> Pooling:
    """The first token's state; of a class for classification, what BERT makes of it: a dense layer, tanh, the scores."""
    c, hidden = source.fields, source.fields.integer("hidden_size")
    if not names_classifier(source):
        return Pooling("cls")
    return classifier(c, "cls", (Dense(hidden, hidden, activation="tanh"),), hidden)


def names_classifier(source: HfConfig) -> bool:
    """True if the config's class has a head of scores."""
    names = source.fields.sequence("architectures") or ("",)
    return str(names[0]).endswith(CLASSIFIER)


def _classes(*families: str) -> tuple[str, ...]:
    return tuple(family + ending for family in families for ending in ("Model", "ForMaskedLM", CLASSIFIER))


BERT = Architecture(_classes("Bert"), from_hf)
ROBERTA = Architecture(_classes("Roberta", "XLMRoberta", "Camembert"), roberta_from_hf)
