"""A ModelSpec before it is known how its weights are stored, and its completion: every weight named, sized and located."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from octavo_models.errors import InvalidConfigError
from octavo_models.formats import format_of_transposed
from octavo_models.layers import Attention, Experts, Latent, Layer, Mlp, Norm
from octavo_models.pooling import Pooling
from octavo_models.spec import LearnedPositions, ModelSpec, PerLayerEmbedding, Weight
from octavo_models.tensors import At, TensorMap, TransposeHeads, UnitRows, Unpermute

# Axis that tensor parallelism cuts, and the module name of LoRA checkpoints, by the last part of a weight's name.
ROW_SHARDED = ("q", "k", "v", "output_gate", "gate", "up", "experts_gate", "experts_up", "shared_gate", "shared_up")
SHARD_AXIS = dict.fromkeys(("embedding", "head", "head_bias", "sinks", "q_b", "k_b", "v_b", *ROW_SHARDED), 0)
SHARD_AXIS |= {f"{name}_bias": 0 for name in ROW_SHARDED} | {"o": 1, "down": 1, "experts_down": 1, "shared_down": 1}
MOST_SOURCES = 1 << 20  # layers times experts, or times heads; the largest published mixtures have some 100,000
ADAPTER_TARGETS = {name: f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


@dataclass(frozen=True, slots=True)
class SpecDraft:
    """The values that an architecture reads out of a config or of GGUF metadata; `tensors` locates each weight of
    `layers`.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    max_position: int
    tied_head: bool
    tensors: TensorMap
    embedding_norm: Norm | None = None
    positions: LearnedPositions | None = None
    projected_embedding: int | None = None
    head_bias: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_soft_cap: float | None = None
    vision_parameters: int | None = 0
    per_layer_embedding: PerLayerEmbedding | None = None
    token_types: int = 0
    pooling: Pooling | None = None


def complete(
    draft: SpecDraft, architecture: str, format_of: Callable[[str], str], dtype: str, quantization: str | None
) -> ModelSpec:
    """The spec. `format_of(tensor)` gives the format that a tensor of the checkpoint is stored in, a key of `FORMATS`."""
    return ModelSpec(
        architecture=architecture,
        vocab_size=draft.vocab_size,
        hidden_size=draft.hidden_size,
        layers=draft.layers,
        final_norm=draft.final_norm,
        weights=tuple(_weights(draft, format_of)),
        max_position=draft.max_position,
        tied_head=draft.tied_head,
        dtype=dtype,
        quantization=quantization,
        embedding_norm=draft.embedding_norm,
        positions=draft.positions,
        projected_embedding=draft.projected_embedding,
        head_bias=draft.head_bias,
        embedding_multiplier=draft.embedding_multiplier,
        residual_multiplier=draft.residual_multiplier,
        logits_multiplier=draft.logits_multiplier,
        logits_soft_cap=draft.logits_soft_cap,
        vision_parameters=draft.vision_parameters,
        per_layer_embedding=draft.per_layer_embedding,
        token_types=draft.token_types,
        pooling=draft.pooling,
    )


def _weights(draft: SpecDraft, format_of: Callable[[str], str]) -> Iterator[Weight]:
    def weight(part: WeightPart, layer: int | None = None) -> Weight:
        place = part.place or part.last
        entry, sources = draft.tensors.entry(place), draft.tensors.sources(place, layer)
        transform = _transform(part, entry)
        stored = format_of(sources[0].tensor)  # loading checks that all are equal
        return Weight(
            part.last if layer is None else f"layers.{layer}.{part.last}",
            part.shape,
            sources,
            format_of_transposed(stored) if isinstance(transform, TransposeHeads) else stored,
            transform=transform,
            shard_axis=_shard_axis(part, layer, draft),
            groups=part.groups,
            adapter_target=ADAPTER_TARGETS.get(part.last),
        )

    num_sources = 0
    for part in _before(draft):
        yield weight(part)
    for i, layer in enumerate(draft.layers):
        for part in _layer(layer, draft.hidden_size):
            found = weight(part, i)
            num_sources += len(found.sources)
            if num_sources > MOST_SOURCES:
                raise InvalidConfigError(f"it has more than {MOST_SOURCES} tensors in its layers, which is implausible")
            yield found
    for part in _after(draft):
        yield weight(part)


def _transform(part: WeightPart, entry: At | None) -> Unpermute | UnitRows | TransposeHeads | None:
    if entry is not None and entry.by_head:
        return TransposeHeads(part.heads)
    if entry is not None and entry.permuted:
        return Unpermute(part.heads)
    return UnitRows() if entry is not None and entry.unit_rows else None


def _shard_axis(part: WeightPart, layer: int | None, draft: SpecDraft) -> int | None:
    """Norms of q and k have elements of each rank's own heads, unless all heads share theirs."""
    if part.last in {"q_norm", "k_norm", "q_norm_bias", "k_norm_bias"} and layer is not None:
        return None if draft.layers[layer].attention.qk_norm_span == "head" else 0
    return SHARD_AXIS.get(part.last)


@dataclass(frozen=True, slots=True)
class WeightPart:
    """A weight by the last part of its name."""

    last: str
    shape: tuple[int, ...]
    heads: int = 0  # that the rows divide into
    groups: int = 1  # experts that the rows divide into
    place: str | None = None  # the weight whose place it is stored in; None: its own


def _before(draft: SpecDraft) -> Iterator[WeightPart]:
    """The parts that precede the layers."""
    hidden, width = draft.hidden_size, draft.projected_embedding
    yield WeightPart("embedding", (draft.vocab_size, width or hidden))
    if draft.positions is not None:
        yield WeightPart("positions", (draft.positions.count, hidden))
    if draft.token_types:
        yield WeightPart("token_types", (draft.token_types, hidden))
    yield from _norm("embedding_norm", draft.embedding_norm, hidden)
    if width is not None:
        yield WeightPart("project_in", (hidden, width))
    if draft.per_layer_embedding is not None:
        size = draft.per_layer_embedding.size
        yield WeightPart("per_layer_embedding", (draft.per_layer_embedding.count, len(draft.layers) * size))
        yield WeightPart("per_layer_projection", (len(draft.layers) * size, hidden))
        yield from _norm("per_layer_norm", draft.per_layer_embedding.norm, size)
    for name in _streams(draft, "in"):
        yield WeightPart(name, (hidden, hidden))


def _streams(draft: SpecDraft, which: str) -> list[str]:
    """The projections between the embedding, or the head, and each residual stream but the first."""
    altup = draft.layers[0].altup
    return [f"stream_{which}_{i}" for i in range(1, 1 if altup is None else altup.num)]


def _after(draft: SpecDraft) -> Iterator[WeightPart]:
    """The parts that follow the layers."""
    hidden, width = draft.hidden_size, draft.projected_embedding
    for name in _streams(draft, "out"):
        yield WeightPart(name, (hidden, hidden))
    yield from _norm("final_norm", draft.final_norm, hidden)
    if draft.pooling is not None:
        yield from _pooling(draft.pooling)
        return
    if width is not None:
        yield WeightPart("project_out", (width, hidden))
    if not draft.tied_head:
        yield WeightPart("head", (draft.vocab_size, width or hidden))
    if draft.head_bias:
        yield WeightPart("head_bias", (draft.vocab_size,))


def _pooling(pooling: Pooling) -> Iterator[WeightPart]:
    for i, dense in enumerate(pooling.dense):
        yield WeightPart(f"dense_{i}", (dense.out_size, dense.in_size))
        if dense.bias:
            yield WeightPart(f"dense_{i}_bias", (dense.out_size,))
        yield from _norm(f"dense_{i}_norm", dense.norm, dense.out_size)


def _layer(layer: Layer, hidden: int) -> Iterator[WeightPart]:
    yield from _norm("pre_attention_norm", layer.pre_attention_norm, hidden)
    yield from _attention(layer.attention, hidden)
    yield from _norm("post_attention_norm", layer.post_attention_norm, hidden)
    yield from _norm("pre_mlp_norm", layer.pre_mlp_norm, hidden)
    if isinstance(layer.mlp, Experts):
        yield from _experts(layer.mlp, hidden)
    else:
        yield from _mlp("", layer.mlp, hidden)
    yield from _norm("post_mlp_norm", layer.post_mlp_norm, hidden)
    yield from _beside_the_halves(layer, hidden)


def _beside_the_halves(layer: Layer, hidden: int) -> Iterator[WeightPart]:
    """The weights that belong to neither attention nor MLP."""
    if (laurel := layer.laurel) is not None:
        yield WeightPart("laurel_left", (laurel.rank, hidden))
        yield WeightPart("laurel_right", (hidden, laurel.rank))
        yield from _norm("laurel_norm", laurel.norm, hidden)
    if (altup := layer.altup) is not None:
        yield WeightPart("altup_router", (altup.num, hidden))
        yield from _norm("altup_norm", altup.norm, hidden)
        yield WeightPart("altup_prediction", (altup.num**3,))
        yield WeightPart("altup_correction", (altup.num**2,))
        yield WeightPart("altup_scale", (hidden,))
    if (each := layer.per_layer) is not None:
        yield WeightPart("per_layer_gate", (each.size, hidden))
        yield WeightPart("per_layer_out", (hidden, each.size))
        yield from _norm("post_per_layer_norm", each.norm, hidden)
    if layer.scaled:
        yield WeightPart("layer_scale", (1,))


def _attention(a: Attention, hidden: int) -> Iterator[WeightPart]:
    yield from _qkv(a, hidden) if a.latent is None else _latent(a, a.latent, hidden)
    if a.output_gate:
        yield WeightPart("output_gate", (a.o_size, hidden))
    if a.sinks:
        yield WeightPart("sinks", (a.num_heads,))
    yield WeightPart("o", (hidden, a.o_size))
    if a.o_bias:
        yield WeightPart("o_bias", (hidden,))


def _latent(a: Attention, latent: Latent, hidden: int) -> Iterator[WeightPart]:
    if latent.q_rank is None:
        yield WeightPart("q", (a.q_size, hidden))
    else:
        yield from _with_bias("q_a", (latent.q_rank, hidden), latent.bias)
        yield from _norm("q_a_norm", latent.norm, latent.q_rank)
        yield WeightPart("q_b", (a.q_size, latent.q_rank))
    yield from _with_bias("kv_a", (latent.width, hidden), latent.bias)
    yield from _norm("kv_a_norm", latent.norm, latent.rank)
    yield WeightPart("k_b", (a.num_heads * latent.rank, a.head_dim_k - latent.rotary_dim), a.num_heads)
    yield WeightPart("v_b", (a.o_size, latent.rank))


def _with_bias(last: str, shape: tuple[int, int], bias: bool) -> Iterator[WeightPart]:
    yield WeightPart(last, shape)
    if bias:
        yield WeightPart(f"{last}_bias", shape[:1])


def _qkv(a: Attention, hidden: int) -> Iterator[WeightPart]:
    v = "k" if a.values_are_keys else "v"
    own = (("k", a.k_size, a.num_kv_heads, "k"), ("v", a.v_size, 0, v)) if a.own_kv_heads else ()
    for last, rows, heads, place in (("q", a.q_size, a.num_heads, "q"), *own):
        yield WeightPart(last, (rows, hidden), heads, place=place)
        if a.qkv_bias:
            yield WeightPart(f"{last}_bias", (rows,), heads, place=f"{place}_bias")
    for last, num_heads in (("q_norm", a.num_heads), ("k_norm", a.num_kv_heads))[: 2 if a.own_kv_heads else 1]:
        yield from _norm(last, a.qk_norm, a.head_dim_k * (1 if a.qk_norm_span == "head" else num_heads))


def _experts(experts: Experts, hidden: int) -> Iterator[WeightPart]:
    num, router = experts.num_experts, experts.router
    yield WeightPart("router", (num, hidden))
    if router.bias:
        yield WeightPart("router_bias", (num,))
    if router.correction:
        yield WeightPart("router_correction", (num,))
    if router.expert_scales:
        yield WeightPart("expert_scales", (num,))
    if (beside := experts.beside) is not None:
        yield from _norm("router_norm", beside.router, hidden)
        yield from _norm("experts_norm", beside.before, hidden)
        yield from _norm("post_experts_norm", beside.after, hidden)
        yield from _norm("post_shared_norm", beside.after_shared, hidden)
    yield from _mlp("experts_", experts.expert, hidden, num)
    if experts.shared is not None:
        yield from _mlp("shared_", experts.shared, hidden)
        if experts.shared_gate:
            yield WeightPart("shared_router", (1, hidden))


def _mlp(prefix: str, mlp: Mlp, hidden: int, num: int = 1) -> Iterator[WeightPart]:
    """The weights of an MLP, or of `num` experts, whose rows follow one another."""
    inner = mlp.intermediate_size
    matrices = [("gate", inner, hidden)] if mlp.gated else []
    for last, rows, columns in (*matrices, ("up", inner, hidden), ("down", hidden, inner)):
        yield WeightPart(f"{prefix}{last}", (num * rows, columns), groups=num)
        if mlp.bias or (last == "down" and mlp.down_bias):
            yield WeightPart(f"{prefix}{last}_bias", (num * rows,), groups=num)
    if mlp.activation == "xielu":
        yield WeightPart("xielu_positive", (1,))
        yield WeightPart("xielu_negative", (1,))


def _norm(last: str, norm: Norm | None, size: int) -> Iterator[WeightPart]:
    if norm is not None and norm.weight:
        yield WeightPart(last, (size,))
        if norm.bias:
            yield WeightPart(f"{last}_bias", (size,))
