"""The features of a decoder beyond the plain one; an executor refuses a spec that needs one which it does not declare."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from octavo_engine.errors import ExecutorError
from octavo_models.spec import Experts, ModelSpec

Feature = Literal["bidirectional", "pooling", "experts", "alibi", "sinks", "shared_kv"]


def refuse_unsupported(spec: ModelSpec, executor: str, declared: Collection[Feature], remedy: str) -> None:
    """Raise ExecutorError for the first feature of `spec` that is not `declared`; it names the feature and `remedy`."""
    for feature, description in _features_of(spec):
        if feature not in declared:
            raise ExecutorError(
                f"the {executor} executor can't run {spec.architecture}: it does not support {description}. {remedy}"
            )


def _features_of(spec: ModelSpec) -> Iterator[tuple[Feature, str]]:
    """Each feature that the spec needs, and where."""
    if not spec.causal:
        yield "bidirectional", "attention in both directions (causal: false)"
    if spec.head != "lm":
        yield "pooling", f"a head of the kind {spec.head}"
    for i, layer in enumerate(spec.layers):
        attention = layer.attention
        if isinstance(layer.mlp, Experts):
            yield "experts", f"a mixture of {layer.mlp.num_experts} experts (layer {i})"
        if attention.alibi:
            yield "alibi", f"ALiBi (layer {i})"
        if attention.sinks:
            yield "sinks", f"attention sinks (layer {i})"
        if attention.kv_from_layer is not None:
            yield "shared_kv", f"keys and values of another layer (layer {i} uses those of {attention.kv_from_layer})"
