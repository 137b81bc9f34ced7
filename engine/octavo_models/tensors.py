"""The places of a decoder's weights in a checkpoint, as typed values: tensors, parts of tensors, and tables of both.

The tables themselves belong to the architectures' files; the types here only define what a table can express.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

# Our names of weights, without the number of the layer. A bias has its weight's entry: `q_bias` is found at `q`.
OuterWeight = Literal[
    "embedding",
    "positions",
    "token_types",
    "embedding_norm",
    "project_in",
    "project_out",
    "per_layer_embedding",
    "per_layer_projection",
    "per_layer_norm",
    "stream_in_1",
    "stream_in_2",
    "stream_in_3",
    "stream_out_1",
    "stream_out_2",
    "stream_out_3",
    "final_norm",
    "head",
    "dense_0",
    "dense_0_norm",
    "dense_1",
    "dense_2",
    "dense_3",
]
LayerWeight = Literal[
    "pre_attention_norm",
    "q",
    "k",
    "v",
    "q_a",
    "q_a_norm",
    "q_b",
    "kv_a",
    "kv_a_norm",
    "k_b",
    "v_b",
    "q_norm",
    "k_norm",
    "output_gate",
    "sinks",
    "o",
    "post_attention_norm",
    "pre_mlp_norm",
    "gate",
    "up",
    "down",
    "xielu_positive",
    "xielu_negative",
    "router",
    "router_correction",
    "experts_gate",
    "experts_up",
    "experts_down",
    "shared_gate",
    "shared_up",
    "shared_down",
    "shared_router",
    "expert_scales",
    "router_norm",
    "experts_norm",
    "post_experts_norm",
    "post_shared_norm",
    "laurel_left",
    "laurel_right",
    "laurel_norm",
    "altup_router",
    "altup_norm",
    "altup_prediction",
    "altup_correction",
    "altup_scale",
    "per_layer_gate",
    "per_layer_out",
    "post_per_layer_norm",
    "layer_scale",
    "post_mlp_norm",
]


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows from `first` on, of the `of` rows of each of the `groups` equal groups that make up a tensor.

    One group is a plain slice, such as k in Phi-3's `qkv_proj`. Several are a tensor that is packed head by head
    (GPT-NeoX), KV group by KV group (Falcon, InternLM 2) or row by row (gate and up of gpt-oss).
    """

    first: int
    count: int
    of: int
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the checkpoint, or some of its rows.

    A `transposed` one is stored as [in_features, out_features]. One of more than two axes (the experts of a layer) is a
    matrix with all but the last axis as rows; so is one of `matrices` below each other, each of them transposed.
    """

    tensor: str
    rows: Rows | None = None  # of the tensor as it is after the transposition
    transposed: bool = False
    matrices: int = 1

    def rows_of(self, stored: tuple[int, ...], *, vector: bool = False) -> tuple[int, ...]:
        """The shape [rows, in_features] that a tensor of the shape `stored` is read as; of a `vector`, [elements]."""
        if vector:
            return (math.prod(stored),)
        if len(stored) == 1:  # GGUF's gate of a shared expert, a matrix of one row
            return (1, *stored)
        axes = self.axes(stored)
        shape = (*axes[:-2], axes[-1], axes[-2]) if self.transposed else axes
        return (math.prod(shape[:-1]), shape[-1])

    def axes(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape `stored` of a tensor with an axis for its matrices."""
        if self.matrices == 1 or len(stored) != 2 or stored[0] % self.matrices:
            return stored
        return (self.matrices, stored[0] // self.matrices, stored[1])

    def shape_of(self, rows: int, *columns: int) -> tuple[int, ...]:
        """The shape in which a checkpoint has this many rows, the reverse of `rows_of`."""
        return (*(self.matrices * n for n in columns), rows // self.matrices) if self.transposed else (rows, *columns)


@dataclass(frozen=True, slots=True)
class Unpermute:
    """Rows of each of `heads` heads are stored in rotary pairs, (2i, 2i+1), where executors expect (i, i + dim/2)."""

    heads: int


@dataclass(frozen=True, slots=True)
class UnitRows:
    """Each row is scaled to length 1 (Baichuan 2's head)."""


@dataclass(frozen=True, slots=True)
class TransposeHeads:
    """Each of `heads` heads has a matrix, all of them below each other, and each is transposed.

    Latent attention's keys: a head's [rows, rank] multiplies latents, and [rank, rows] what queries take it in with.
    """

    heads: int

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape before, of one that is `shape` afterwards."""
        return (self.heads * shape[1], shape[0] // self.heads)


@dataclass(frozen=True, slots=True)
class At:
    """The place of one weight in a checkpoint, and of its bias. Made by `at`.

    Several `modules` are joined along their rows, one after another (the experts of a layer: `at_experts`); `picked` are
    the rows of each, where they differ. A layer's modules are relative to the layer. `permuted` means that the weight
    needs an `Unpermute`, `unit_rows` a `UnitRows`, `by_head` a `TransposeHeads`.
    """

    modules: tuple[str, ...]
    rows: Rows | None = None
    transposed: bool = False
    matrices: int = 1
    permuted: bool = False
    weight: str = ".weight"  # what follows the module's name: gpt-oss's experts have "" and "_bias"
    bias: str = ".bias"
    unit_rows: bool = False
    by_head: bool = False
    picked: tuple[Rows, ...] = ()


def at(*modules: str, rows: Rows | None = None, transposed: bool = False, permuted: bool = False) -> At:
    """The weight and the bias of `modules`, under the usual names of parameters."""
    return At(modules, rows, transposed, permuted=permuted)


def parameter(name: str, *, rows: Rows | None = None, transposed: bool = False, matrices: int = 1) -> At:
    """A parameter whose name is complete; a bias beside it has `_bias` behind that."""
    return At((name,), rows, transposed, matrices, weight="", bias="_bias")


def at_experts(module: str, num_experts: int) -> At:
    """A weight of which each expert has a module of its own; `module` has a {} for the expert's number."""
    return At(tuple(module.format(i) for i in range(num_experts)))


def packed(
    module: str, *parts: tuple[LayerWeight, int], groups: int = 1, transposed: bool = False
) -> dict[LayerWeight, At]:
    """The entries of weights that one module holds together: `parts` are their names and rows, all groups together."""
    entries: dict[LayerWeight, At] = {}
    first, of = 0, sum(num_rows for _, num_rows in parts) // groups
    for name, num_rows in parts:
        count = num_rows // groups
        entries[name] = at(module, rows=Rows(first, count, of, groups), transposed=transposed)
        first += count
    return entries


@dataclass(frozen=True, slots=True)
class Layout:
    """The prefixes of a decoder's tensor names: `inner` where a plain one has `model.`, `outer` where it has none."""

    inner: str
    outer: str = ""

    def name(self, plain: str) -> str:
        """The name that a decoder alone calls `plain`."""
        rest = plain.removeprefix(PLAIN.inner)
        return self.outer + plain if rest == plain else self.inner + rest

    def plain(self, name: str) -> str | None:
        """The name by which a decoder alone calls `name`; None if the name isn't one of this layout."""
        if name.startswith(self.inner):
            return PLAIN.inner + name.removeprefix(self.inner)
        return name.removeprefix(self.outer) if name.startswith(self.outer) else None


PLAIN = Layout("model.")
LAYOUTS = (  # of decoders alone, and of the text halves of models that also take images
    PLAIN,
    Layout("language_model.model.", "language_model."),
    Layout("model.language_model."),
    Layout("model.text_model."),
)


@dataclass(frozen=True, slots=True)
class TensorMap:
    """The tensors of one kind of checkpoint. `layers` is what precedes the number of a layer in a tensor's name."""

    layers: str
    outer: Mapping[OuterWeight, At]
    inner: Mapping[LayerWeight, At]

    def updated(self, inner: Mapping[LayerWeight, At]) -> TensorMap:
        """This map with other or further entries for weights of a layer."""
        return replace(self, inner={**self.inner, **inner})

    def laid_out(self, layout: Layout) -> TensorMap:
        """This map for a decoder that is a part of a larger model, which keeps its tensors in `layout`."""
        outer = {
            name: replace(entry, modules=tuple(map(layout.name, entry.modules))) for name, entry in self.outer.items()
        }
        return replace(self, layers=layout.name(self.layers), outer=outer)

    def entry(self, name: str) -> At | None:
        """The entry of a weight by the last part of its name; of a bias, that of its weight. None if there is none."""
        entries: dict[str, At] = dict((*self.outer.items(), *self.inner.items()))
        return entries.get(name) or entries.get(name.removesuffix("_bias"))

    def sources(self, name: str, layer: int | None) -> tuple[Source, ...]:
        """The sources of a weight, by the last part of its name and the number of its layer."""
        entry = self.entry(name)
        assert entry is not None, f"the architecture describes a weight {name} and does not say where it is stored"
        is_bias = name.endswith("_bias")
        prefix = "" if layer is None else f"{self.layers}.{layer}."
        parameter = entry.bias if is_bias else entry.weight
        rows = entry.picked or (entry.rows,) * len(entry.modules)
        return tuple(
            Source(f"{prefix}{module}{parameter}", own, entry.transposed and not is_bias, entry.matrices)
            for module, own in zip(entry.modules, rows, strict=True)
        )
