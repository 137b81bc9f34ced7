"""One decoder, or encoder, for every `ModelSpec`: weights fused once at load, a forward over a batch of paged sequences.

Owns the order of operations; the operations are the kernels'. A forward reads nothing back from the device, so that
it can be captured as a CUDA graph. What the spec says and this decoder can't do is refused at load, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from octavo_engine.executors.torch.altup import AltUpWeights, LaurelWeights, StreamProjections
from octavo_engine.executors.torch.embedding import Embedding
from octavo_engine.executors.torch.feed_forward import ExpertsWeights, MlpWeights, feed_forward
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.latent import LatentWeights
from octavo_engine.executors.torch.linear import Adapted, Linear, Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.executors.torch.per_layer import PerLayerEmbeddingWeights, PerLayerWeights
from octavo_engine.executors.torch.pooler import Pooler
from octavo_engine.executors.torch.scratch_cache import ScratchCache
from octavo_engine.kernels.adapter_weights import AdapterRows
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import Operations, PagedBatch
from octavo_engine.kernels.packing import Stored
from octavo_models.layers import Attention, Layer, Norm
from octavo_models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class DecoderInputs:
    """The inputs of a forward: a step's token rows, and the step as each KV group sees it."""

    token_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64
    groups: tuple[PagedBatch, ...]
    token_types: Tensor | None = None  # [num_tokens] int64; None: all 0
    adapters: AdapterRows | None = None  # None: no row has one


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. A norm that the spec leaves out is None."""

    pre_attention_norm: NormWeights | None
    post_attention_norm: NormWeights | None
    pre_mlp_norm: NormWeights | None
    post_mlp_norm: NormWeights | None
    q_norm: NormWeights | None
    k_norm: NormWeights | None
    qkv: Linear | LatentWeights
    sinks: Tensor | None  # [num_heads]
    output_gate: Linear | None
    o: Linear
    feed_forward: MlpWeights | ExpertsWeights
    laurel: LaurelWeights | None
    altup: AltUpWeights | None
    per_layer: PerLayerWeights | None
    scale: Tensor | None  # [1]


class Decoder:
    """The model, loaded, or one rank's part of it. Immutable; `forward` writes KV blocks only.

    `spec` and `weights` are the rank's own (`octavo_models.partition`); what is between ranks is `parallel`'s.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: dict[str, Stored],
        ops: Operations,
        dtype: torch.dtype,
        parallel: Parallel = ALONE,
        adapted: Adapted = lambda _: None,
    ) -> None:
        """Take each tensor out of `weights`, so that stacking never holds the model twice. Activations are `dtype`."""
        self.spec = spec
        self.ops = ops
        self.parallel = parallel
        self.dtype = dtype

        def vector(name: str) -> Tensor:
            held = weights.pop(name)
            assert isinstance(held, Tensor), "blocks are packed in matrices alone"
            return held

        table = weights.pop("embedding", None)
        if parallel.place.first_stage:
            assert table is not None
            self.embedding = Embedding.of(spec, table, dtype, weights.pop, vector)
        more, altup = spec.per_layer_embedding, spec.layers[0].altup
        self.per_layer = None if more is None else PerLayerEmbeddingWeights.of(more, dtype, weights.pop, vector)
        self.spread = None if altup is None else StreamProjections.of(altup, "in", weights.pop, vector)
        self.merge = None if altup is None else StreamProjections.of(altup, "out", weights.pop, vector)
        self.pooler: Pooler | None = None
        if parallel.place.last_stage:
            norm = spec.final_norm
            self.final_norm = None if norm is None else NormWeights.of(norm, "final_norm", vector)
        if spec.pooling is not None:
            self.pooler = Pooler(spec.pooling, weights.pop, vector, dtype)
        elif parallel.place.last_stage:
            self.project_out = weights.pop("project_out") if spec.projected_embedding is not None else None
            self.head = table if spec.tied_head and table is not None else weights.pop("head")  # [vocab, width]
            self.head_bias = vector("head_bias") if spec.head_bias else None
        rotaries, scalings = zip(
            *((layer.attention.rotary, layer.attention.query_scaling) for layer in spec.layers), strict=True
        )
        self._rotaries = dict.fromkeys(rotary for rotary in rotaries if rotary is not None)
        self._scalings = dict.fromkeys(scaling for scaling in scalings if scaling is not None)
        # Equal ones are one object: by it a step's batch finds what it has settled for layers of this kind.
        kinds = {layer.attention: layer.attention for layer in spec.layers}
        self._absorbed = {kind: kind.absorbed for kind in kinds}
        self._attentions = [kinds[layer.attention] for layer in spec.layers]
        self.on_part: Callable[[], None] = lambda: None  # called as each layer, or logits, were computed, or launched
        self.layers = [self._layer(weights.pop, vector, adapted, i, layer) for i, layer in enumerate(spec.layers)]

    def forward(self, inputs: DecoderInputs, cache: KVCache | ScratchCache) -> Tensor:
        """Run all layers over the step's rows and write their KV. Returns [num_tokens, hidden_size].

        They are normed; of a stage that is not the last one, they are what the next stage goes on with.
        """
        x = self._embedded(inputs) if self.parallel.place.first_stage else self._received(inputs)
        turns = {rotary: self.ops.rotary_table(rotary, inputs.positions) for rotary in self._rotaries}
        scales = {scaling: self.ops.query_scales(scaling, inputs.positions) for scaling in self._scalings}
        each = None if self.per_layer is None else self.per_layer(self.ops, x, inputs.token_ids)
        streams = None if self.spread is None else self.spread.spread(self.ops, x)
        branch: Tensor | None = None  # what the residual stream x still has to take in: the next norm adds it
        for i, (layer, weights) in enumerate(zip(self.spec.layers, self.layers, strict=True)):
            changes = HeadChanges(turns.get(layer.attention.rotary), scales=scales.get(layer.attention.query_scaling))
            if weights.altup is not None and streams is not None:
                streams = weights.altup.predict(self.ops, streams)
                x = streams[0]
            normed, x = self._enter(weights.pre_attention_norm, x, branch)
            around = None if weights.laurel is None else weights.laurel(self.ops, normed)
            branch = None  # its memory, before attention takes more
            attended = self._attention(i, self._attentions[i], weights, normed, changes, inputs, cache)
            if layer.post_norms_sum:
                x = self._enter(weights.post_attention_norm, x, self._leave(None, attended))[0]
                normed = x if weights.pre_mlp_norm is None else weights.pre_mlp_norm(self.ops, x)
            else:
                attended = self._leave(weights.post_attention_norm, attended)
                if layer.parallel_residual:
                    normed = normed if weights.pre_mlp_norm is None else weights.pre_mlp_norm(self.ops, x)
                    x = x + attended
                elif around is not None:
                    normed, x = self._enter(weights.pre_mlp_norm, (x + attended + around) * 2.0**-0.5, None)
                else:
                    normed, x = self._enter(weights.pre_mlp_norm, x, attended)
            fed = weights.feed_forward(self.ops, normed, x, inputs.adapters)
            if layer.post_norms_sum:
                x = self._enter(weights.post_mlp_norm, x, self._leave(None, fed))[0]
            else:
                branch = self._leave(weights.post_mlp_norm, fed)
            if weights.altup is not None or weights.per_layer is not None or weights.scale is not None:
                own = None if each is None else each[:, i]
                x, streams = self._end(weights, x if branch is None else x + branch, streams, own)
                branch = None
            self.on_part()
        if self.merge is not None and streams is not None:
            x = self.merge.merge(self.ops, streams)
        if self.parallel.place.last_stage:
            return self._enter(self.final_norm, x, branch)[0]
        x = self._enter(None, x, branch)[0]
        self.parallel.send(x)
        return x

    def _end(
        self, weights: LayerWeights, x: Tensor, streams: Tensor | None, own: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the parts behind both halves of a layer: the correction of the streams, its own input, a factor on all."""
        if weights.altup is not None and streams is not None:
            streams = weights.altup.correct(self.ops, streams, x)
            if weights.per_layer is not None and own is not None:
                streams[1:] += weights.per_layer(self.ops, streams[0] * weights.altup.scale, own)
            return streams[0], streams
        if weights.per_layer is not None and own is not None:
            x = x + weights.per_layer(self.ops, x, own)
        return (x if weights.scale is None else x * weights.scale), None

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size], normed -> [n, vocab], float32, multiplier and soft cap included."""
        if self.project_out is not None:
            hidden = self.ops.matmul(hidden, self.project_out)
        own = self.ops.matmul(hidden, self.head, self.head_bias)
        logits = self.parallel.gather_logits(own, self.spec.vocab_size)
        del own
        capped = self.ops.soft_cap_logits(logits, self.spec.logits_multiplier, self.spec.logits_soft_cap)
        self.on_part()
        return capped

    def _embedded(self, inputs: DecoderInputs) -> Tensor:
        return self.embedding(self.ops, self.parallel, inputs.token_ids, inputs.positions, inputs.token_types)

    def _received(self, inputs: DecoderInputs) -> Tensor:
        shape = (len(inputs.token_ids), self.spec.hidden_size)
        return self.parallel.receive(torch.empty(shape, dtype=self.dtype, device=inputs.token_ids.device))

    def _enter(self, norm: NormWeights | None, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm(x + branch), x + branch): what a half of a layer reads, and the residual stream beside it."""
        if branch is None:
            return (x if norm is None else norm(self.ops, x)), x
        if norm is None:
            total = x + branch
            return total, total
        return self.ops.add_norm(branch, x, norm.weight, norm.spec, norm.bias)

    def _leave(self, norm: NormWeights | None, x: Tensor) -> Tensor:
        """A half's result as the residual stream takes it in."""
        x = x if norm is None else norm(self.ops, x)
        return x if self.spec.residual_multiplier == 1.0 else x * self.spec.residual_multiplier

    def _attention(
        self,
        i: int,
        spec: Attention,
        weights: LayerWeights,
        x: Tensor,
        changes: HeadChanges,
        inputs: DecoderInputs,
        cache: KVCache | ScratchCache,
    ) -> Tensor:
        ops, batch, adapters = self.ops, inputs.groups[cache.group_of_layer[i]], inputs.adapters
        if isinstance(weights.qkv, LatentWeights):
            mixed = weights.qkv(ops, x, spec, changes, cache.keys[i], batch, weights.sinks)
            return self.parallel.all_reduce(weights.o(ops, mixed, adapters))
        keys, values = cache.keys[i], cache.values[i]
        qkv = weights.qkv(ops, x, adapters)
        q = ops.write_qkv(qkv, spec, self._normed(qkv, spec, weights, changes), keys, values, batch)
        mixed = ops.attention(q, keys, values, batch, spec, sinks=weights.sinks)  # [num_tokens, num_heads, head_dim_v]
        mixed = mixed.flatten(-2)
        if weights.output_gate is not None:
            mixed = ops.gate_by_sigmoid(mixed, weights.output_gate(ops, x))
        return self.parallel.all_reduce(weights.o(ops, mixed, adapters))

    def _normed(self, qkv: Tensor, spec: Attention, weights: LayerWeights, changes: HeadChanges) -> HeadChanges:
        """`changes` with the layer's norms; those of the width span the heads of all ranks."""
        q, k = weights.q_norm, weights.k_norm
        if q is None:
            return changes
        sums = None
        if spec.qk_norm_span == "width":
            sums = self.parallel.all_reduce(self.ops.head_sums(qkv, spec))
        ranks = self.parallel.place.tensor_size
        return replace(
            changes,
            q_norm=q.weight,
            k_norm=None if k is None else k.weight,
            q_norm_bias=q.bias,
            k_norm_bias=None if k is None else k.bias,
            sums=sums,
            num_ranks=1 if sums is None else ranks,
        )

    def _layer(self, matrix: Matrices, vector: Vectors, adapted: Adapted, i: int, layer: Layer) -> LayerWeights:
        attention = layer.attention

        def norm(name: str, spec: Norm | None) -> NormWeights | None:
            return None if spec is None else NormWeights.of(spec, f"layers.{i}.{name}", vector)

        def linear(*names: str, bias: bool) -> Linear:
            return Linear.of(matrix, vector, [f"layers.{i}.{name}" for name in names], bias=bias, adapted=adapted)

        return LayerWeights(
            pre_attention_norm=norm("pre_attention_norm", layer.pre_attention_norm),
            post_attention_norm=norm("post_attention_norm", layer.post_attention_norm),
            pre_mlp_norm=norm("pre_mlp_norm", layer.pre_mlp_norm),
            post_mlp_norm=norm("post_mlp_norm", layer.post_mlp_norm),
            q_norm=norm("q_norm", attention.qk_norm),
            k_norm=norm("k_norm", attention.qk_norm) if attention.own_kv_heads else None,
            qkv=linear(*("q", "k", "v")[: 3 if attention.own_kv_heads else 1], bias=attention.qkv_bias)
            if attention.latent is None
            else LatentWeights.of(
                matrix, vector, f"layers.{i}.", attention, attention.latent, self._absorbed[attention]
            ),
            sinks=vector(f"layers.{i}.sinks") if attention.sinks else None,
            output_gate=linear("output_gate", bias=False) if attention.output_gate else None,
            o=linear("o", bias=attention.o_bias),
            feed_forward=feed_forward(layer.mlp, f"layers.{i}.", matrix, vector, self.parallel, adapted),
            laurel=None if layer.laurel is None else LaurelWeights.of(layer.laurel, f"layers.{i}.", matrix, vector),
            altup=None if layer.altup is None else AltUpWeights.of(layer.altup, f"layers.{i}.", matrix, vector),
            per_layer=None
            if layer.per_layer is None
            else PerLayerWeights.of(layer.per_layer, f"layers.{i}.", matrix, vector),
            scale=vector(f"layers.{i}.layer_scale") if layer.scaled else None,
        )
