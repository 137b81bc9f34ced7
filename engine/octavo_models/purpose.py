"""The purpose that a model is served for: whether it generates, or pools, and then by which head.

An encoder pools; so does a class with a head of scores, and a folder that sentence-transformers has written. Any other
decoder generates, unless the user says otherwise, with vLLM's words (`--runner`, `--convert`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.pooling import Dense, Pooling, PoolingKind, ScoreActivation
from octavo_models.sentence_modules import Modules
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import OuterWeight, Rows, at

Runner = Literal["auto", "generate", "pooling"]
Convert = Literal["auto", "none", "embed", "classify"]
DENSE: tuple[OuterWeight, ...] = ("dense_0", "dense_1", "dense_2", "dense_3")
CLASSIFIER = "ForSequenceClassification"
HEADLESS = ("TextModel", "Model")  # classes of decoders without a head
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True, slots=True)
class Purpose:
    """The words of the user, of sentence-transformers' files do, and the ids of tokens, where a tokenizer is at hand."""

    runner: Runner = "auto"
    convert: Convert = "auto"
    modules: Modules | None = None
    pooling: PoolingKind | None = None  # in place of the model's own
    token_id: Callable[[str], int | None] = lambda _token: None

    @property
    def pools(self) -> bool:
        """True if a model that could do both pools."""
        if self.runner != "auto":
            return self.runner == "pooling"
        return self.convert in {"embed", "classify"} or (self.convert == "auto" and self.modules is not None)


GENERATE_OR_POOL = Purpose()


def language_model_of(name: str, known: Mapping[str, object]) -> str | None:
    """The class of `known` whose decoder the class `name` has without the language model's head; None if there is none."""
    for ending in (f"Text{CLASSIFIER}", CLASSIFIER, *HEADLESS):
        base = name.removesuffix(ending)
        if base != name:
            found = next((base + head for head in LANGUAGE_MODELS if base + head in known), None)
            if found is not None:
                return found
    return None


def with_purpose(draft: SpecDraft, name: str, fields: Fields, purpose: Purpose, *, headless: bool = False) -> SpecDraft:
    """The draft of the class `name` as it is used: an encoder's own pooling or the purpose's, or a decoder that pools.

    `headless`: the class is a decoder's without a head.

    Raises:
        UnsupportedModelError: the model can't be used so.
    """
    own, scores = draft.pooling, name.endswith(CLASSIFIER)
    encodes = own is not None or any(not layer.attention.causal for layer in draft.layers)
    if purpose.runner == "generate" and (encodes or scores or headless):
        raise UnsupportedModelError(
            f"{name} has no head that generates, or no causal attention: leave --runner generate out"
        )
    if own is not None:
        if purpose.convert == "classify" and own.task == "embed":
            raise UnsupportedModelError(f"{name} has no head of scores: leave --convert classify out")
        own = replace(own, kind=purpose.pooling or own.kind)
        return _embedding(draft, own, fields, purpose) if own.task == "embed" else replace(draft, pooling=own)
    if not (encodes or scores or headless or purpose.pools):
        return draft
    if draft.projected_embedding is not None:
        raise UnsupportedModelError(f"{name} projects its embedding: such models generate alone")
    if scores:
        return _scoring(draft, fields, purpose)
    if purpose.convert == "classify" or (fields.has("classifier_from_token") and purpose.convert != "embed"):
        return _scored_by_tokens(draft, name, fields, purpose)
    return _embedding(draft, Pooling(purpose.pooling or "last"), fields, purpose)


def classifier(
    fields: Fields, kind: PoolingKind, before: Sequence[Dense], hidden: int, *, bias: bool = True
) -> Pooling:
    """The head of a class for sequence classification: `before`, then a score for each label."""
    count = num_labels(fields)
    return Pooling(
        kind,
        (*before, Dense(hidden, count, bias)),
        "classify",
        normalize=False,
        activation=_activation(fields, count),
        labels=_labels(fields, count),
    )


def num_labels(fields: Fields) -> int:
    """The scores of a classifier, as transformers counts them."""
    named = fields.mapping("id2label")
    return len(named) if named else fields.integer("num_labels", 2, maximum=1 << 20)


def _embedding(draft: SpecDraft, pooling: Pooling, fields: Fields, purpose: Purpose) -> SpecDraft:
    """A model that makes embeddings, with what sentence-transformers' files say, where it has them."""
    own = fields.sequence("matryoshka_dimensions") or ()
    dimensions = tuple(Fields({"matryoshka_dimensions": each}).integer("matryoshka_dimensions") for each in own)
    pooling = replace(
        pooling, dimensions=dimensions, any_dimension=not dimensions and fields.boolean("is_matryoshka", False)
    )
    modules = purpose.modules
    if modules is None:
        return replace(draft, pooling=pooling)
    outer = dict(draft.tensors.outer)
    dense, width = [], draft.hidden_size
    for weight, module in zip(DENSE, modules.dense, strict=False):
        if module.in_size != width:
            raise UnsupportedModelError(
                f"{module.folder} takes {module.in_size} numbers, and what precedes it gives {width}"
            )
        outer[weight] = at(f"{module.folder}/linear")
        dense.append(Dense(module.in_size, module.out_size, module.bias, module.activation))
        width = module.out_size
    pooling = replace(pooling, kind=purpose.pooling or modules.kind, dense=tuple(dense), normalize=modules.normalize)
    return replace(
        draft,
        pooling=pooling,
        tensors=replace(draft.tensors, outer=outer),
        max_position=min(draft.max_position, modules.max_length or draft.max_position),
    )


def _scoring(draft: SpecDraft, fields: Fields, purpose: Purpose) -> SpecDraft:
    """A decoder whose last token's state gives a score for each label."""
    pooling = classifier(fields, purpose.pooling or "last", (), draft.hidden_size, bias=False)
    outer = {**draft.tensors.outer, "dense_0": at("score")}
    return replace(draft, pooling=pooling, tensors=replace(draft.tensors, outer=outer))


def _scored_by_tokens(draft: SpecDraft, name: str, fields: Fields, purpose: Purpose) -> SpecDraft:
    """A generating reranker: its scores are the logits of the tokens that `classifier_from_token` names.

    The field and `method`, or `is_original_qwen3_reranker`, are vLLM's (of --hf-overrides, or of a config.json).
    """
    tokens = fields.sequence("classifier_from_token")
    if not tokens:
        raise UnsupportedModelError(
            f"{name} has no head of scores: name the tokens whose logits are the scores, with --hf-overrides "
            """'{"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true}' for a Qwen 3 reranker"""
        )
    rows = []
    for token in tokens:
        found = purpose.token_id(token) if isinstance(token, str) else None
        if found is None or found >= draft.vocab_size:
            raise UnsupportedModelError(f"classifier_from_token names {token!r}, which is no token of the tokenizer")
        rows.append(Rows(found, 1, draft.vocab_size))
    of_two = fields.boolean("is_original_qwen3_reranker", False) or fields.text("method", "") == "from_2_way_softmax"
    if of_two and len(tokens) != 2:
        raise UnsupportedModelError(f"classifier_from_token names {len(tokens)} tokens; from_2_way_softmax takes two")
    entry = draft.tensors.entry("embedding" if draft.tied_head else "head")
    assert entry is not None, "a decoder that generates has a head"
    picked = replace(entry, modules=entry.modules * len(rows), picked=tuple(rows))
    activation: ScoreActivation = "sigmoid_of_difference" if of_two else _activation(fields, len(tokens))
    pooling = Pooling(
        purpose.pooling or "last",
        (Dense(draft.hidden_size, len(rows), bias=False),),
        "classify",
        normalize=False,
        activation=activation,
        labels=tuple(map(str, tokens[1:] if of_two else tokens)),
    )
    outer = {**draft.tensors.outer, "dense_0": picked}
    return replace(draft, pooling=pooling, tensors=replace(draft.tensors, outer=outer))


def _labels(fields: Fields, count: int) -> tuple[str, ...]:
    named = fields.mapping("id2label") or {}
    return tuple(str(named.get(str(i), f"LABEL_{i}")) for i in range(count))


def _activation(fields: Fields, count: int) -> ScoreActivation:
    """The activation of scores, as in vLLM: what sentence-transformers has written, else by the kind of problem, else by the number of labels."""
    written = Fields(fields.mapping("sentence_transformers") or {})
    name = written.text("activation_fn", fields.text("sbert_ce_default_activation_function", ""))
    if name:
        known: dict[str, ScoreActivation] = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}
        last = name.rpartition(".")[2]
        if last not in known:
            raise UnsupportedModelError(f"the activation of scores is {name!r}; supported are {', '.join(known)}")
        return known[last]
    by_problem: dict[str, ScoreActivation] = {
        "regression": "none",
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }
    problem = fields.text("problem_type", "")
    return by_problem.get(problem, "sigmoid" if count < 2 else "softmax")
