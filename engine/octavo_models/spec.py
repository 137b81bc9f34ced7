"""The description of a decoder or an encoder: the `ModelSpec` that the planner and both executors read.

Owns the whole model, its weights and the exact sizes that follow from them; `layers` has the parts of a layer.
Independent of files, devices and batches; every type here is frozen data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from octavo_models.errors import MismatchError
from octavo_models.formats import FORMATS, nbytes, stays_packed
from octavo_models.layers import Attention, Layer, Norm
from octavo_models.pooling import Pooling
from octavo_models.tensors import Source, TransposeHeads, UnitRows, Unpermute

BY_HEAD = {"k_b", "v_b"}
"""Weights of which each head has a matrix, for rows of its own."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the decoder, and where a checkpoint keeps it.

    `name` is canonical (docs/decisions/0002). `shape` is [out_features, in_features] for a matrix; the experts of a
    layer lie one after another in one matrix, [num_experts * out_features, in_features]. The rows of all `sources`
    follow one another; `transform` then brings them into the order, or the length, that executors expect. `format` is a key of
    `FORMATS`: as stored. `shard_axis` is the axis that tensor parallelism cuts; axis 0 is cut within each of `groups`
    equal groups of rows. `adapter_target` is the module name that LoRA checkpoints use.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    format: str
    transform: Unpermute | UnitRows | TransposeHeads | None = None
    shard_axis: int | None = None
    groups: int = 1
    adapter_target: str | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape before the transform."""
        t = self.transform
        return t.stored(self.shape) if isinstance(t, TransposeHeads) else self.shape

    def rows_in(self, source: Source) -> int:
        """The rows of the tensor of `source`, one of this weight's: also of those that belong to other weights."""
        own = self.stored_shape[0] // len(self.sources)
        return own if source.rows is None else source.rows.of * source.rows.groups

    def fits(self, source: Source, stored: tuple[int, ...]) -> bool:
        """True if a tensor of the shape `stored` can be `source`, one of this weight's."""
        return source.rows_of(stored, vector=len(self.shape) == 1) == (self.rows_in(source), *self.stored_shape[1:])

    def stored_as(self, source: Source, like: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the tensor of `source` must have, with an axis for its experts if the shape `like` has one."""
        rows, *columns = self.rows_in(source), *self.stored_shape[1:]
        if len(like) < 3 or self.groups == 1 or len(self.sources) > 1:
            return source.shape_of(rows, *columns)
        of_each = (rows // self.groups, *columns)
        return (self.groups, *(reversed(of_each) if source.transposed else of_each))

    def check(self, source: Source, stored: tuple[int, ...] | None, described_by: str) -> None:
        """Raise MismatchError unless a tensor of the shape `stored` can be `source`; None: there is no such tensor.

        `described_by` names where the shape that it must have comes from.
        """
        if stored is None:
            raise MismatchError(f"tensor {source.tensor} is missing")
        if not self.fits(source, stored):
            expected = list(self.stored_as(source, stored))
            raise MismatchError(
                f"tensor {source.tensor} has the shape {list(stored)}, which {described_by} makes {expected}"
            )

    def divided(self, parts: int) -> tuple[int, ...]:
        """The shape of each of `parts` equal parts that tensor parallelism cuts; the last one may need padding."""
        groups = self.groups if self.shard_axis == 0 else 1
        return tuple(
            groups * -(-(n // groups) // parts) if i == self.shard_axis else n for i, n in enumerate(self.shape)
        )

    def stays_packed(self, shape: tuple[int, ...]) -> bool:
        """True if a GPU holds a part of this `shape` as packed blocks; what each head multiplies with its own is not
        packed.
        """
        return stays_packed(self.format, shape) and not self.by_head

    @property
    def by_head(self) -> bool:
        """True if each head has a matrix of its own, below the one before it, for rows of its own."""
        return self.name.rpartition(".")[2] in BY_HEAD

    @property
    def layer(self) -> int | None:
        """The number of the layer that it belongs to; None outside of the layers."""
        return int(self.name.split(".")[1]) if self.name.startswith("layers.") else None

    @property
    def nbytes(self) -> int:
        """Bytes as stored in the checkpoint, exactly."""
        return nbytes(self.format, self.shape)


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers whose KV blocks share one block table. `block_bytes` is one block across all layers of the group."""

    kind: Literal["full", "window", "latent", "state"]
    layers: tuple[int, ...]
    block_bytes: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class KVLayout:
    """All that the scheduler needs of a model."""

    block_size: int
    groups: tuple[KVGroup, ...]

    def kept_bytes(self, num_tokens: int) -> int:
        """Bytes that one sequence of `num_tokens` keeps; window layers keep no more than their window."""
        return sum(self._blocks(group, num_tokens, 0) * group.block_bytes for group in self.groups)

    def once_bytes(self, num_tokens: int, chunk: int) -> int:
        """Bytes that are needed once, however many sequences of up to `num_tokens` run.

        They are the null block of each group and, in groups with a window, the blocks of the `chunk` of a prompt that a
        step computes in addition to the window.
        """
        return sum(
            (1 + self._blocks(group, num_tokens, min(chunk, num_tokens)) - self._blocks(group, num_tokens, 0))
            * group.block_bytes
            for group in self.groups
        )

    def _blocks(self, group: KVGroup, num_tokens: int, chunk: int) -> int:
        """Blocks of a sequence while `chunk` tokens beyond the window are computed."""
        whole = -(-num_tokens // self.block_size)
        if group.window is None:
            return whole
        return min(whole, -(-(group.window + chunk + self.block_size) // self.block_size))


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """A table whose row p + offset is added to the embedding of the token at position p. It has `count` rows."""

    count: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class PerLayerEmbedding:
    """A second embedding, of `count` tokens, that gives each layer `size` elements: its per-layer input.

    All layers' together are `(norm(projection(x) / sqrt(hidden_size)) + sqrt(size) * row) / sqrt(2)`, where x is what the
    first layer reads, and the norm is over each layer's part. Tokens beyond the table have row 0.
    """

    count: int
    size: int
    norm: Norm


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole decoder or encoder. With a `pooling` it has no head, and no KV blocks: a prompt is computed in one step.
    Built by `octavo_models.from_hf_config` or `from_gguf`."""

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    weights: tuple[Weight, ...]
    max_position: int
    tied_head: bool
    dtype: str  # the checkpoint's own: float32, float16 or bfloat16; quantized files say float32
    quantization: str | None = None  # such as "gguf"; None for plain dtypes
    embedding_norm: Norm | None = None  # on the embedding's rows, learned positions added (BLOOM, BERT)
    positions: LearnedPositions | None = None
    projected_embedding: int | None = (
        None  # width of embedding and head, where projections lead to hidden_size and back
    )
    head_bias: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_soft_cap: float | None = None
    vision_parameters: int | None = 0  # of what the checkpoint has beside the decoder; None: it has that, of any size
    per_layer_embedding: PerLayerEmbedding | None = None
    token_types: int = 0  # rows of the table of which one is added to each embedding, by its token's segment
    pooling: Pooling | None = None

    @property
    def num_parameters(self) -> int:
        """The number in the checkpoint: what two weights read alike (values that are keys) counts once."""
        return sum({w.sources: math.prod(w.shape) for w in self.weights}.values())

    def weight_bytes(self, dtype: str | None = None) -> int:
        """Bytes of all weights: as stored, or all of them widened to `dtype` (float32, float16, bfloat16)."""
        if dtype is None:
            return sum(w.nbytes for w in self.weights)
        return sum(nbytes(FORMAT_OF_DTYPE[dtype], w.shape) for w in self.weights)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Each layer's attention."""
        return tuple(layer.attention for layer in self.layers)

    def kv_layout(self, block_size: int, kv_format: str, value_multiple: int = 1) -> KVLayout:
        """Blocks of `block_size` tokens in `kv_format` ("f32", "bf16", "f16" …), one group a kind of attention.

        The values of a head are padded to a multiple of `value_multiple` elements.
        """
        if self.pooling is not None:
            return KVLayout(block_size, ())
        return kv_layout_of(self.attentions, block_size, kv_format, value_multiple)

    def kv_bytes(self, num_tokens: int, kv_format: str, block_size: int = 16) -> int:
        """KV bytes that one sequence of `num_tokens` keeps; window layers keep no more than their window."""
        return self.kv_layout(block_size, kv_format).kept_bytes(num_tokens)


def kv_layout_of(attentions: Sequence[Attention], block_size: int, kv_format: str, value_multiple: int = 1) -> KVLayout:
    """The blocks that keep what `attentions` write, as `ModelSpec.kv_layout`."""
    element = FORMATS[kv_format].bytes_per_block
    kinds: dict[tuple[bool, int | None], list[int]] = {}
    for i, attention in enumerate(attentions):
        if attention.kv_from_layer is None:
            kinds.setdefault((attention.latent is not None, attention.window), []).append(i)
    groups = []
    for (is_latent, window), members in sorted(kinds.items(), key=lambda item: (item[0][1] or 0, item[0][0])):
        per_token = sum(attentions[i].k_size + _padded_values(attentions[i], value_multiple) for i in members)
        kind: Literal["full", "window", "latent"] = "latent" if is_latent else "full" if window is None else "window"
        groups.append(KVGroup(kind, tuple(members), per_token * block_size * element, window))
    return KVLayout(block_size, tuple(groups))


def _padded_values(attention: Attention, multiple: int) -> int:
    return attention.v_size // attention.head_dim_v * -(-attention.head_dim_v // multiple) * multiple


FORMAT_OF_DTYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
