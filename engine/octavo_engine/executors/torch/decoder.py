"""One decoder for every `ModelSpec`: weights fused once at load, a forward over a batch of paged sequences.

Owns the order of operations; the operations are the kernels'. What the spec says and this decoder can't do is
refused at load, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.input_batch import InputBatch
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.kernels import reference as ops
from octavo_models.spec import Attention, Experts, Layer, Mlp, ModelSpec, Norm, Rotary

Tensors = Callable[[str], Tensor]  # canonical name -> tensor, handed over


@dataclass(frozen=True, slots=True)
class NormWeights:
    """A norm with what it needs to run."""

    spec: Norm
    weight: Tensor  # [dim]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return ops.norm(x, self.weight, self.spec, self.bias)


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weightᵀ + bias`, several projections of the same input stacked."""

    weight: Tensor  # [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. A norm that the spec leaves out is None."""

    pre_attention_norm: NormWeights | None
    post_attention_norm: NormWeights | None
    pre_mlp_norm: NormWeights | None
    post_mlp_norm: NormWeights | None
    q_norm: NormWeights | None
    k_norm: NormWeights | None
    qkv: Linear
    o: Linear
    up: Linear  # [gate; up] where gated
    down: Linear


def refuse_unsupported(spec: ModelSpec) -> None:
    """Raises:
    ExecutorError: names the first field of the spec that this decoder does not run.
    """
    wrong: str | None = None
    if not spec.causal:
        wrong = "causal: false"
    elif spec.head != "lm":
        wrong = f"head: {spec.head}"
    for i, layer in enumerate(spec.layers):
        attention = layer.attention
        if wrong is not None:
            break
        if isinstance(layer.mlp, Experts):
            wrong = f"layers.{i}.mlp: a mixture of {layer.mlp.num_experts} experts"
        elif attention.alibi:
            wrong = f"layers.{i}.attention.alibi"
        elif attention.sinks:
            wrong = f"layers.{i}.attention.sinks"
        elif attention.kv_from_layer is not None:
            wrong = f"layers.{i}.attention.kv_from_layer: {attention.kv_from_layer}"
    if wrong is not None:
        raise ExecutorError(f"the torch executor can't run {spec.architecture}: it has no {wrong}")


class Decoder:
    """The model, loaded, or one rank's part of it. Immutable; `forward` writes KV pages only.

    `spec` and `weights` are the rank's own (`octavo_models.partition`); what is between ranks is `parallel`'s.
    """

    def __init__(self, spec: ModelSpec, weights: dict[str, Tensor], parallel: Parallel = ALONE) -> None:
        """Takes each tensor out of `weights`, so that stacking never holds the model twice."""
        refuse_unsupported(spec)
        self.spec = spec
        self.parallel = parallel
        self.dtype = next(iter(weights.values())).dtype
        tensors = weights.pop
        if "embedding" in weights:
            self.embedding = tensors("embedding")  # [vocab, hidden]
        if parallel.place.last_stage:
            self.head = self.embedding if spec.tied_head else tensors("head")  # [vocab, hidden]
            self.final_norm = self._norm(tensors, "final_norm", spec.final_norm)
        self.layers = [self._layer(tensors, i, layer) for i, layer in enumerate(spec.layers)]

    def forward(self, batch: InputBatch, cache: KVCache) -> Tensor:
        """Run all layers over the batch's rows and write their KV. Returns [num_tokens, hidden_size].

        They are normed; of a stage that is not the last one, they are what the next stage goes on with.
        """
        x = self._embedded(batch) if self.parallel.place.first_stage else self._received(batch)
        turns: dict[Rotary, tuple[Tensor, Tensor]] = {}
        for i, (layer, weights) in enumerate(zip(self.spec.layers, self.layers, strict=True)):
            rotary = layer.attention.rotary
            if rotary is not None and rotary not in turns:
                turns[rotary] = ops.rotary_table(rotary, batch.positions)
            turn = None if rotary is None else turns[rotary]
            normed = x if weights.pre_attention_norm is None else weights.pre_attention_norm(x)
            attended = self._attention(i, layer.attention, weights, normed, turn, batch, cache)
            if weights.post_attention_norm is not None:
                attended = weights.post_attention_norm(attended)
            attended = attended * self.spec.residual_multiplier
            if layer.parallel_residual:
                normed = normed if weights.pre_mlp_norm is None else weights.pre_mlp_norm(x)
                x = x + attended
            elif weights.pre_mlp_norm is None:
                x = normed = x + attended
            else:
                norm = weights.pre_mlp_norm
                normed, x = ops.add_norm(attended, x, norm.weight, norm.spec, norm.bias)
            out = self._mlp(layer, weights, normed)
            if weights.post_mlp_norm is not None:
                out = weights.post_mlp_norm(out)
            x = x + out * self.spec.residual_multiplier
        if self.parallel.place.last_stage:
            return self.final_norm(x)
        self.parallel.send(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size], normed -> [n, vocab], float32, multiplier and soft cap included."""
        logits = self.parallel.gather_logits(linear(hidden, self.head), self.spec.vocab_size)
        return ops.soft_cap_logits(logits, self.spec.logits_multiplier, self.spec.logits_soft_cap)

    def _embedded(self, batch: InputBatch) -> Tensor:
        x = self.parallel.embed(self.embedding, batch.token_ids)  # [num_tokens, hidden]
        if self.spec.embedding_multiplier == 1.0:
            return x
        return x * torch.tensor(self.spec.embedding_multiplier, dtype=x.dtype, device=x.device)

    def _received(self, batch: InputBatch) -> Tensor:
        shape = (len(batch.token_ids), self.spec.hidden_size)
        return self.parallel.receive(torch.empty(shape, dtype=self.dtype, device=batch.token_ids.device))

    def _attention(
        self,
        i: int,
        spec: Attention,
        weights: LayerWeights,
        x: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        batch: InputBatch,
        cache: KVCache,
    ) -> Tensor:
        q, k, v = torch.split(weights.qkv(x), [spec.q_size, spec.k_size, spec.v_size], -1)
        q = q.view(-1, spec.num_heads, spec.head_dim_k)  # [num_tokens, num_heads, head_dim_k]
        k = k.view(-1, spec.num_kv_heads, spec.head_dim_k)
        v = v.view(-1, spec.num_kv_heads, spec.head_dim_v)
        q = q if weights.q_norm is None else weights.q_norm(q)
        k = k if weights.k_norm is None else weights.k_norm(k)
        if spec.rotary is not None and turn is not None:
            q = ops.apply_rotary(q, *turn, interleaved=spec.rotary.interleaved)
            k = ops.apply_rotary(k, *turn, interleaved=spec.rotary.interleaved)
        group = cache.group_of_layer[i]
        ops.kv_write(k, v, cache.keys[i], cache.values[i], batch.slots[group])
        mixed = ops.paged_attention(
            q,
            cache.keys[i],
            cache.values[i],
            batch.block_tables[group],
            batch.query_starts,
            batch.seq_lens,
            scale=spec.scale,
            window=spec.window,
            soft_cap=spec.soft_cap,
        )
        return self.parallel.all_reduce(weights.o(mixed.flatten(-2)))

    def _mlp(self, layer: Layer, weights: LayerWeights, x: Tensor) -> Tensor:
        assert isinstance(layer.mlp, Mlp)
        up = weights.up(x)
        kind = layer.mlp.activation
        inner = ops.gated(up, kind) if layer.mlp.gated else ops.activation(up, kind)
        return self.parallel.all_reduce(weights.down(inner))

    @staticmethod
    def _norm(tensors: Tensors, name: str, spec: Norm) -> NormWeights:
        return NormWeights(spec, tensors(name), tensors(f"{name}_bias") if spec.bias else None)

    def _layer(self, tensors: Tensors, i: int, layer: Layer) -> LayerWeights:
        assert isinstance(layer.mlp, Mlp)
        attention = layer.attention

        def norm(name: str, spec: Norm | None) -> NormWeights | None:
            return None if spec is None else self._norm(tensors, f"layers.{i}.{name}", spec)

        def stack(*names: str, bias: bool) -> Linear:
            return Linear(
                torch.cat([tensors(f"layers.{i}.{n}") for n in names]),
                torch.cat([tensors(f"layers.{i}.{n}_bias") for n in names]) if bias else None,
            )

        return LayerWeights(
            pre_attention_norm=norm("pre_attention_norm", layer.pre_attention_norm),
            post_attention_norm=norm("post_attention_norm", layer.post_attention_norm),
            pre_mlp_norm=norm("pre_mlp_norm", layer.pre_mlp_norm),
            post_mlp_norm=norm("post_mlp_norm", layer.post_mlp_norm),
            q_norm=norm("q_norm", attention.qk_norm),
            k_norm=norm("k_norm", attention.qk_norm),
            qkv=stack("q", "k", "v", bias=attention.qkv_bias),
            o=stack("o", bias=attention.o_bias),
            up=stack(*(("gate", "up") if layer.mlp.gated else ("up",)), bias=layer.mlp.bias),
            down=stack("down", bias=layer.mlp.bias),
        )
