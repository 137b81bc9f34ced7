"""The decoder that one rank of several runs, and the part of each weight that it needs.

A rank's decoder is a `ModelSpec` like any other, with fewer heads, narrower MLPs and fewer layers, so that
executors need no arithmetic of ranks: only the sums and transfers between ranks remain. Sizes must divide
(`sharding.obstacle`), except for the vocabulary, whose last part is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import overload

from octavo_models.layers import Attention, Experts, Layer, Mlp
from octavo_models.outline import Model, ModelOutline
from octavo_models.sharding import BEFORE_THE_LAYERS, KV_ROWS, OF_EXPERTS, stage_of
from octavo_models.spec import KVGroup, KVLayout, ModelSpec, Weight, kv_layout_of

ADDED_AFTER_THE_SUM = {f"{name}_bias" for name in ("o", "down", "experts_down", "shared_down")}  # by one rank alone


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a rank. Ranks are numbered stage by stage, so that a stage's ranks share a machine."""

    tensor_rank: int = 0
    tensor_size: int = 1
    stage: int = 0
    num_stages: int = 1
    whole_experts: bool = False  # it has some experts of a mixture, each of them whole, in place of a slice of each

    @classmethod
    def of(cls, rank: int, tensor_size: int, num_stages: int, *, whole_experts: bool = False) -> Place:
        """The place of rank 0 … tensor_size * num_stages - 1."""
        assert 0 <= rank < tensor_size * num_stages
        return cls(rank % tensor_size, tensor_size, rank // tensor_size, num_stages, whole_experts)

    @property
    def first_stage(self) -> bool:
        return self.stage == 0

    @property
    def last_stage(self) -> bool:
        return self.stage == self.num_stages - 1


@dataclass(frozen=True, slots=True)
class Shard:
    """A rank's part of one weight. `weight` is the part, named and shaped as the rank's own decoder has it.

    It is `whole[start : start + weight.shape[axis]]` along `axis`, padded with zeros beyond the end; all of it where
    `axis` is None. Rows of a weight with groups are cut so within each group, unless the part is `whole_groups`. With
    `zero` the rank holds zeros instead: another rank adds what is added once.
    """

    weight: Weight
    whole: Weight
    axis: int | None = None
    start: int = 0
    zero: bool = False
    whole_groups: bool = False

    @property
    def row_ranges(self) -> tuple[tuple[int, int], ...]:
        """The rows of `whole` that the part consists of, first and last + 1, one range for each group."""
        assert self.axis == 0
        if self.whole_groups:
            return ((self.start, self.start + self.weight.shape[0]),)
        each, size = self.whole.shape[0] // self.whole.groups, self.weight.shape[0] // self.whole.groups
        firsts = (group * each + self.start for group in range(self.whole.groups))
        return tuple((first, first + size) for first in firsts)


def layers_of(spec: ModelSpec, place: Place) -> range:
    """The layers that the rank's stage runs, by their number in the whole model."""
    num = len(spec.layers)
    mine = [i for i in range(num) if stage_of(i, num, place.num_stages) == place.stage]
    return range(mine[0], mine[-1] + 1)


@overload
def part(spec: ModelSpec, place: Place) -> ModelSpec: ...
@overload
def part(spec: Model, place: Place) -> Model: ...
def part(spec: Model, place: Place) -> Model:
    """The decoder that the rank runs. Its vocabulary's size stays the model's; its weights are its own."""
    if isinstance(spec, ModelOutline):
        assert place.num_stages == 1, "the layers of what is not described are not divided into stages"
        return replace(spec, attentions=_attentions_of_outline(spec, place))
    mine = layers_of(spec, place)
    layers = tuple(_layer(spec.layers[i], place, mine.start) for i in mine)
    return replace(spec, layers=layers, weights=tuple(shard.weight for shard in shards(spec, place)))


def shards(spec: ModelSpec, place: Place) -> Iterator[Shard]:
    """The rank's part of each weight that it needs, in the model's order."""
    mine = layers_of(spec, place)
    for whole in spec.weights:
        name, layer, last = whole.name, whole.layer, whole.name.rpartition(".")[2]
        if layer is not None:
            if layer not in mine:
                continue
            name = f"layers.{layer - mine.start}.{last}"
            parts = place.tensor_size
            if last in KV_ROWS:  # KV heads fewer than ranks are held several times
                parts = min(parts, spec.layers[layer].attention.num_kv_heads)
        elif _has(spec, last, place):
            parts = place.tensor_size
        else:
            continue
        yield _shard(whole, name, place, parts)


def kv_layout(spec: Model, place: Place, block_size: int, kv_format: str, value_multiple: int = 1) -> KVLayout:
    """The rank's share of the model's blocks: the same groups for all ranks, with the rank's own layers and bytes.

    A stage without layers of a group has blocks of zero bytes in it, so that all ranks have the same block tables.
    """
    if isinstance(spec, ModelOutline):
        return part(spec, place).kv_layout(block_size, kv_format, value_multiple)
    whole = spec.kv_layout(block_size, kv_format, value_multiple)
    if not whole.groups:
        return whole
    attentions = [_attention(spec.layers[i].attention, place) for i in layers_of(spec, place)]
    own = kv_layout_of(attentions, block_size, kv_format, value_multiple).groups
    absent = {(g.kind, g.window): KVGroup(g.kind, (), 0, g.window) for g in whole.groups}
    return KVLayout(block_size, tuple((absent | {(g.kind, g.window): g for g in own}).values()))


def _has(spec: ModelSpec, last: str, place: Place) -> bool:
    """True if the rank needs this one of the weights outside of the layers."""
    if last == "embedding":
        return place.first_stage or (spec.tied_head and place.last_stage)
    return place.first_stage if last.startswith(BEFORE_THE_LAYERS) else place.last_stage


def _shard(whole: Weight, name: str, place: Place, parts: int) -> Shard:
    axis, last = whole.shard_axis, name.rpartition(".")[2]
    if place.whole_experts and last in OF_EXPERTS:
        first, end = _held(whole.groups, place)
        each = whole.shape[0] // whole.groups
        weight = replace(whole, name=name, shape=((end - first) * each, *whole.shape[1:]), groups=end - first)
        return Shard(weight, whole, 0, first * each, whole_groups=True)
    if axis is None or parts == 1:
        zero = last in ADDED_AFTER_THE_SUM and place.tensor_rank > 0
        return Shard(replace(whole, name=name), whole, zero=zero)
    shape = whole.divided(parts)
    size = shape[axis] // (whole.groups if axis == 0 else 1)
    index = place.tensor_rank * parts // place.tensor_size
    return Shard(replace(whole, name=name, shape=shape), whole, axis, index * size)


def _layer(layer: Layer, place: Place, first: int) -> Layer:
    """The rank's part of a layer, in a decoder that begins at the layer `first` of the whole."""
    attention = _attention(layer.attention, place)
    if attention.kv_from_layer is not None:
        attention = replace(attention, kv_from_layer=attention.kv_from_layer - first)
    return replace(layer, attention=attention, mlp=_narrowed(layer.mlp, place))


def _attentions_of_outline(outline: ModelOutline, place: Place) -> tuple[Attention, ...]:
    """Heads are cut where the model's own plan cuts them; all ranks have the others."""
    if place.tensor_size == 1 or not outline.cuts_heads:
        return outline.attentions
    return tuple(_attention(attention, place) for attention in outline.attentions)


def _attention(attention: Attention, place: Place) -> Attention:
    heads = attention.num_heads // place.tensor_size
    first = heads * place.tensor_rank
    return replace(
        attention,
        num_heads=heads,
        num_kv_heads=max(1, attention.num_kv_heads // place.tensor_size),
        alibi_slopes=attention.alibi_slopes[first : first + heads],
    )


def _narrowed(mlp: Mlp | Experts, place: Place) -> Mlp | Experts:
    size = place.tensor_size
    if isinstance(mlp, Mlp):
        return _mlp(mlp, size)
    shared = None if mlp.shared is None else _mlp(mlp.shared, size)
    if not place.whole_experts:
        return replace(mlp, expert=_mlp(mlp.expert, size), shared=shared)
    return replace(mlp, shared=shared, held=_held(mlp.num_experts, place))


def _held(num_experts: int, place: Place) -> tuple[int, int]:
    """The experts of the rank, first and last + 1: no two ranks differ by more than one."""
    rank, size = place.tensor_rank, place.tensor_size
    return num_experts * rank // size, num_experts * (rank + 1) // size


def _mlp(mlp: Mlp, tensor_size: int) -> Mlp:
    return replace(mlp, intermediate_size=mlp.intermediate_size // tensor_size)
