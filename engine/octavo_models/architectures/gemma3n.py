"""Gemma 3n: of four residual streams a layer computes one, with an embedding of its own; the last layers share keys.

Its published checkpoints also take images and sound. GGUF files leave out what llama.cpp takes for granted: four streams,
the cap on logits, and the number of layers that have keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import gemma
from octavo_models.architectures.gemma2 import soft_cap
from octavo_models.architectures.gemma3 import HF_GEMMA3
from octavo_models.errors import MismatchError, UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import Heads
from octavo_models.hf_config import HfConfig
from octavo_models.layers import AltUp, Attention, Laurel, Layer, Mlp, Norm, PerLayerInput, Rotary
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec import PerLayerEmbedding
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, OuterWeight, Rows, TensorMap, at, parameter

STREAMS = 4
LOGITS_CAP = 30.0
GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
PATTERN = 5  # each fifth layer has no window
SPARSE_LAYERS, SPARSITY = 10, 0.95  # where the config is silent: of so many first layers, if there are more
WITH_KEYS = 20  # the first layers that have keys, in GGUF files that do not say

PER_LAYER: dict[LayerWeight, At] = {
    "per_layer_gate": at("per_layer_input_gate"),
    "per_layer_out": at("per_layer_projection"),
    "post_per_layer_norm": at("post_per_layer_input_norm"),
}
PER_LAYER_OUTER: dict[OuterWeight, At] = {
    "per_layer_embedding": at("model.embed_tokens_per_layer"),
    "per_layer_projection": at("model.per_layer_model_projection"),
    "per_layer_norm": at("model.per_layer_projection_norm"),
}
HF_GEMMA3N = replace(
    HF_GEMMA3.updated(
        {
            **PER_LAYER,
            "altup_router": at("altup.modality_router"),
            "altup_norm": at("altup.router_norm"),
            "altup_prediction": at("altup.prediction_coefs"),
            "altup_correction": at("altup.correction_coefs"),
            "altup_scale": parameter("altup.correct_output_scale"),
            "laurel_left": at("laurel.linear_left"),
            "laurel_right": at("laurel.linear_right"),
            "laurel_norm": at("laurel.post_laurel_norm"),
        }
    ),
    outer={
        **HF_GEMMA3.outer,
        **PER_LAYER_OUTER,
        "stream_in_1": at("model.altup_projections.0"),
        "stream_in_2": at("model.altup_projections.1"),
        "stream_in_3": at("model.altup_projections.2"),
        "stream_out_1": at("model.altup_unembed_projections.0"),
        "stream_out_2": at("model.altup_unembed_projections.1"),
        "stream_out_3": at("model.altup_unembed_projections.2"),
    },
)
GGUF_PER_LAYER: dict[LayerWeight, At] = {
    "per_layer_gate": at("inp_gate"),
    "per_layer_out": at("proj"),
    "post_per_layer_norm": at("post_norm"),
}
GGUF_PER_LAYER_OUTER: dict[OuterWeight, At] = {
    "per_layer_embedding": at("per_layer_token_embd"),
    "per_layer_projection": at("per_layer_model_proj"),
    "per_layer_norm": at("per_layer_proj_norm"),
}


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    for name, value in (("altup_num_inputs", STREAMS), ("altup_active_idx", 0), ("altup_correct_scale", True)):
        if c.has(name) and c.raw(name) != value:
            raise UnsupportedModelError(f"{name} is {c.raw(name)!r}; supported is {value!r}")
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6))
    activation = source.activation("hidden_activation", "gelu_pytorch_tanh")
    local = rotary_from_hf(
        c,
        heads.dim,
        layer_type="sliding_attention",
        theta=c.number("rope_local_base_freq", LOCAL_THETA),
        scaled=False,
    )
    rotary = rotary_from_hf(c, heads.dim, layer_type="full_attention", theta=c.number("rope_theta", GLOBAL_THETA))
    local_layers = source.local_layers([(i + 1) % PATTERN != 0 for i in range(count)])
    widths = c.sequence("intermediate_size", count) if isinstance(c.raw("intermediate_size"), Sequence) else None
    widths = widths or [c.raw("intermediate_size")] * count
    mlps = [
        Mlp(Fields({"intermediate_size": width}).integer("intermediate_size"), activation, cutoff=cutoff)
        for width, cutoff in zip(widths, _cutoffs(c, count), strict=True)
    ]
    attentions = _attentions(
        heads,
        local_layers,
        sources(c, "num_kv_shared_layers", local_layers, c.integer("num_kv_shared_layers", 15, minimum=0)),
        (local, rotary),
        c.integer("sliding_window", 512),
        norm,
    )
    each = PerLayerInput(c.integer("hidden_size_per_layer_input", 256), activation, norm)
    layers = _layers(attentions, mlps, norm, Laurel(c.integer("laurel_rank", 64), norm), each)
    embedding = PerLayerEmbedding(c.integer("vocab_size_per_layer_input", 262_144), each.size, norm)
    draft = source.draft(layers, norm, HF_GEMMA3N, tied_head=True)
    return replace(
        gemma.scaled(draft, source),
        per_layer_embedding=embedding,
        logits_soft_cap=soft_cap(c, "final_logit_softcapping", LOGITS_CAP),
        max_position=c.integer("max_position_embeddings"),
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm, count = source.fields, source.heads(), source.norm(), source.num_layers()
    if m.integer("altup.num_inputs", STREAMS) != STREAMS or m.integer("altup.active_idx", 0, minimum=0):
        raise UnsupportedModelError(f"{m.prefix}altup: supported are {STREAMS} streams, of which the first is computed")
    rotary = rotary_from_gguf(m, heads.dim, theta=m.number("rope.freq_base", GLOBAL_THETA))
    local = rotary_from_gguf(m, heads.dim, theta=m.number("rope.freq_base_swa", LOCAL_THETA), scaled=False)
    local_layers = gguf_parts.local_layers(source, PATTERN)
    shared = m.integer("attention.shared_kv_layers", max(0, count - WITH_KEYS), minimum=0)
    attentions = _attentions(
        heads,
        local_layers,
        sources(m, "attention.shared_kv_layers", local_layers, shared),
        (local, rotary),
        m.integer("attention.sliding_window", 512),
        norm,
    )
    widths = gguf_parts.each_layer(source, "feed_forward_length")
    cutoffs = m.sequence("activation_sparsity_scale", count) or _default_cutoffs(count)
    mlps = [Mlp(width, "gelu_tanh", cutoff=_cutoff(value)) for width, value in zip(widths, cutoffs, strict=True)]
    each, embedding = per_layer_from_gguf(source)
    assert each is not None, "256 where the file is silent"
    rank = shape_of(source, "blk.0.laurel_l.weight")[0]
    layers = _layers(attentions, mlps, norm, Laurel(rank, norm), each)
    return replace(
        gemma.scaled_from_gguf(source.draft(layers, _gguf_tensors(m.integer("embedding_length")))),
        per_layer_embedding=embedding,
        logits_soft_cap=m.number("final_logit_softcapping", LOGITS_CAP),
        max_position=m.integer("context_length"),
    )


def per_layer_from_gguf(
    source: GgufMetadata, default: int = 256
) -> tuple[PerLayerInput | None, PerLayerEmbedding | None]:
    """A layer's input and the embedding that gives it; None twice for a model without."""
    size = source.fields.integer("embedding_length_per_layer_input", default, minimum=0)
    if not size:
        return None, None
    count = shape_of(source, "per_layer_token_embd.weight")[0]
    return PerLayerInput(size, "gelu_tanh", source.norm()), PerLayerEmbedding(count, size, source.norm())


def shape_of(source: GgufMetadata, tensor: str) -> tuple[int, ...]:
    """Raises MismatchError if the file lacks the tensor."""
    if tensor not in source.tensors:
        raise MismatchError(f"tensor {tensor} is missing")
    return source.tensors[tensor][1]


def sources(c: Fields, name: str, local_layers: Sequence[bool], shared: int) -> list[int | None]:
    """The layer whose keys each layer reads: of the `shared` last ones, the last of their kind before them."""
    first = len(local_layers) - shared
    if first <= 0 and shared:
        raise c.error(name, f"is {shared}; of {len(local_layers)} layers, some need keys of their own")
    own: list[int | None] = [None] * first
    for i, local in enumerate(local_layers[first:], first):
        alike = [j for j in range(first) if local_layers[j] == local]
        if not alike:
            raise c.error(name, f"is {shared}, which leaves layer {i} no earlier layer of its kind")
        own.append(alike[-1])
    return own


def _attentions(
    heads: Heads,
    local_layers: Sequence[bool],
    kv_from: Sequence[int | None],
    rotaries: tuple[Rotary, Rotary],
    window: int,
    norm: Norm,
) -> list[Attention]:
    """`rotaries` are those of layers with a window, and of the others."""
    full = heads.attention(rotaries[1], scale=1.0, qk_norm=norm, v_norm=replace(norm, weight=False))
    sliding = replace(full, rotary=rotaries[0], window=window)
    return [
        replace(sliding if local else full, kv_from_layer=source)
        for local, source in zip(local_layers, kv_from, strict=True)
    ]


def _layers(
    attentions: Sequence[Attention], mlps: Sequence[Mlp], norm: Norm, laurel: Laurel, each: PerLayerInput
) -> list[Layer]:
    altup = AltUp(STREAMS, norm)
    return [
        Layer(attention, mlp, norm, norm, norm, norm, laurel=laurel, altup=altup, per_layer=each)
        for attention, mlp in zip(attentions, mlps, strict=True)
    ]


def _cutoffs(c: Fields, count: int) -> list[float | None]:
    """Each layer's cutoff, by the share of its gate that the config says is cut off."""
    name = "activation_sparsity_pattern"
    given = c.raw(name)
    if given is None:
        return [_cutoff(value) for value in _default_cutoffs(count)]
    shares = c.sequence(name, count) if isinstance(given, Sequence) else [given] * count
    cutoffs: list[float | None] = []
    for share in shares or ():
        value = Fields({name: share}).number(name, exclusive=False)
        if value >= 1.0:
            raise c.error(name, f"is {value:g}; a share lies below 1")
        cutoffs.append(NormalDist().inv_cdf(value) if value else None)
    return cutoffs


def _default_cutoffs(count: int) -> list[float]:
    sparse = SPARSE_LAYERS if count > SPARSE_LAYERS else 0
    return [NormalDist().inv_cdf(SPARSITY)] * sparse + [-math.inf] * (count - sparse)


def _cutoff(value: object) -> float | None:
    """A GGUF file has negative infinity where nothing is cut off."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 100.0:
        raise UnsupportedModelError(f"activation_sparsity_scale has {value!r}, which is no cutoff")
    return float(value) if value > -100.0 else None


def _gguf_tensors(hidden: int) -> TensorMap:
    def stacked(tensor: str, i: int) -> At:
        return at(tensor, rows=Rows(i * hidden, hidden, (STREAMS - 1) * hidden))

    return replace(
        GGUF_TENSORS.updated(
            {
                **GGUF_PER_LAYER,
                "altup_router": at("altup_router"),
                "altup_norm": at("altup_router_norm"),
                "altup_prediction": at("altup_predict_coef"),
                "altup_correction": at("altup_correct_coef"),
                "altup_scale": at("altup_correct_scale"),
                "laurel_left": at("laurel_l"),
                "laurel_right": at("laurel_r"),
                "laurel_norm": at("laurel_post_norm"),
            }
        ),
        outer={
            **GGUF_TENSORS.outer,
            **GGUF_PER_LAYER_OUTER,
            "stream_in_1": stacked("altup_proj", 0),
            "stream_in_2": stacked("altup_proj", 1),
            "stream_in_3": stacked("altup_proj", 2),
            "stream_out_1": stacked("altup_unembd_proj", 0),
            "stream_out_2": stacked("altup_unembd_proj", 1),
            "stream_out_3": stacked("altup_unembd_proj", 2),
        },
    )


GEMMA3N = Architecture(("Gemma3nForCausalLM",), from_hf, "gemma3n", from_gguf)
