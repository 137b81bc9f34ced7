"""The features that a decoder may need beyond the plain one, and the executors that have each: for planner and
executors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from octavo_models.layers import Attention, Experts, Layer
from octavo_models.outline import Model, ModelOutline
from octavo_models.spec import ModelSpec

Feature = Literal[
    "bidirectional",
    "pooling",
    "token_types",
    "experts",
    "alibi",
    "sinks",
    "latent_attention",
    "shared_kv",
    "value_norm",
    "per_layer_inputs",
    "altup",
    "laurel",
    "layer_scale",
    "activation_sparsity",
    "experts_beside_mlp",
    "expert_scales",
    "chunked_attention",
    "output_gate",
    "query_scaling",
    "qkv_clip",
    "qk_norm_each_head",
    "qk_norm_width",
    "qk_norm_after_rotary",
    "post_norms_sum",
    "unweighted_norm",
    "activation",
    "learned_positions",
    "embedding_norm",
    "projected_embedding",
    "head_bias",
]
Executor = Literal["native", "torch"]
OF_BOTH: frozenset[Feature] = frozenset(
    {
        "bidirectional",
        "pooling",
        "token_types",
        "learned_positions",
        "embedding_norm",
        "projected_embedding",
        "head_bias",
        "unweighted_norm",
        "post_norms_sum",
        "activation",
        "experts",
        "alibi",
        "sinks",
        "latent_attention",
        "shared_kv",
        "per_layer_inputs",
        "altup",
        "laurel",
        "layer_scale",
        "activation_sparsity",
        "experts_beside_mlp",
        "expert_scales",
        "value_norm",
        "chunked_attention",
        "output_gate",
        "query_scaling",
        "qkv_clip",
        "qk_norm_each_head",
        "qk_norm_width",
        "qk_norm_after_rotary",
    }
)
SUPPORTED: dict[Executor, frozenset[Feature]] = {"native": OF_BOTH, "torch": OF_BOTH}
"""The features that each executor of this version runs; the tests of both hold them to it."""

USUAL_ACTIVATIONS = {"silu", "gelu", "gelu_tanh", "relu", "relu2"}


def unsupported(spec: Model, executor: Executor) -> str | None:
    """The first feature that the executor lacks for the spec, and its layer; None if it runs all of it."""
    if isinstance(spec, ModelOutline):
        return None if executor == "torch" else "models that transformers computes"
    return next((where for feature, where in features_of(spec) if feature not in SUPPORTED[executor]), None)


def features_of(spec: ModelSpec) -> Iterator[tuple[Feature, str]]:
    """Each feature that the spec needs, and where."""
    if spec.pooling is not None:
        yield "pooling", f"pooling ({spec.pooling.kind})"
    if spec.token_types:
        yield "token_types", "token types"
    if spec.positions is not None:
        yield "learned_positions", "learned positions"
    if spec.embedding_norm is not None:
        yield "embedding_norm", "a norm of the embedding"
    if spec.projected_embedding is not None:
        yield "projected_embedding", f"an embedding of another width, {spec.projected_embedding}"
    if spec.head_bias:
        yield "head_bias", "a bias of the head"
    if spec.final_norm is not None and not spec.final_norm.weight:
        yield "unweighted_norm", "a final norm without weights"
    for i, layer in enumerate(spec.layers):
        for feature, description in (*_of_layer(layer), *_of_attention(layer.attention)):
            yield feature, f"{description} (layer {i})"


def _of_layer(layer: Layer) -> Iterator[tuple[Feature, str]]:
    if isinstance(layer.mlp, Experts):
        yield "experts", f"a mixture of {layer.mlp.num_experts} experts"
        if layer.mlp.beside is not None:
            yield "experts_beside_mlp", "a mixture of experts beside an MLP"
        if layer.mlp.router.expert_scales:
            yield "expert_scales", "learned factors on experts"
    elif layer.mlp.cutoff is not None:
        yield "activation_sparsity", "a sparse activation"
    elif layer.mlp.activation not in USUAL_ACTIVATIONS:
        yield "activation", f"the activation {layer.mlp.activation}"
    if layer.post_norms_sum:
        yield "post_norms_sum", "norms of the residual stream"
    if layer.per_layer is not None:
        yield "per_layer_inputs", "an embedding for each layer"
    if layer.altup is not None:
        yield "altup", f"alternating updates of {layer.altup.num} residual streams"
    if layer.laurel is not None:
        yield "laurel", "a learned augmented residual"
    if layer.scaled:
        yield "layer_scale", "a learned factor on the residual stream"
    norms = (layer.pre_attention_norm, layer.post_attention_norm, layer.pre_mlp_norm, layer.post_mlp_norm)
    if any(norm is not None and not norm.weight for norm in (*norms, layer.attention.qk_norm)):
        yield "unweighted_norm", "a norm without weights"


def _of_attention(attention: Attention) -> Iterator[tuple[Feature, str]]:
    if not attention.causal:
        yield "bidirectional", "attention in both directions"
    if attention.alibi_slopes:
        yield "alibi", "ALiBi"
    if attention.sinks:
        yield "sinks", "attention sinks"
    if attention.latent is not None:
        yield "latent_attention", f"attention over a latent of {attention.latent.rank}"
    if attention.kv_from_layer is not None:
        yield "shared_kv", f"keys and values of layer {attention.kv_from_layer}"
    if attention.v_norm is not None:
        yield "value_norm", "norms of values"
    if attention.chunk is not None:
        yield "chunked_attention", f"attention in chunks of {attention.chunk}"
    if attention.output_gate:
        yield "output_gate", "a gate of attention's output"
    if attention.query_scaling is not None:
        yield "query_scaling", "query scaling by position"
    if attention.qkv_clip is not None:
        yield "qkv_clip", "clipped queries, keys and values"
    if attention.qk_norm is None:
        return
    if attention.qk_norm_span == "each_head":
        yield "qk_norm_each_head", "norms of queries and keys with weights of each head"
    if attention.qk_norm_span == "width":
        yield "qk_norm_width", "norms of queries and keys over all heads"
    if attention.qk_norm_after_rotary:
        yield "qk_norm_after_rotary", "norms of queries and keys after rotary"
