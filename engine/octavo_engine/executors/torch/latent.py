"""Latent attention on torch: queries take in each head's keys, attend over latents, and meet each head's values after it.

A token's blocks hold one latent and one turned key, which all ranks keep whole; heads are divided among them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from octavo_engine.executors.torch.linear import Linear, Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import Operations, PagedBatch
from octavo_models.layers import Attention, Latent


@dataclass(frozen=True, slots=True)
class LatentWeights:
    """The weights that precede a layer's product `o`."""

    q_a: Linear | None
    q_a_norm: NormWeights | None
    q: Linear  # of the layer's input, or of what q_a makes of it
    kv_a: Linear
    kv_a_norm: NormWeights
    k_b: Tensor  # [num_heads, rank, head_dim_k - rotary_dim]
    v_b: Tensor  # [num_heads, head_dim_v, rank]
    absorbed: Attention  # equal ones are one object

    @classmethod
    def of(
        cls, matrix: Matrices, vector: Vectors, at: str, spec: Attention, latent: Latent, absorbed: Attention
    ) -> LatentWeights:
        """Takes the weights whose names begin with `at`."""

        def linear(name: str, *, bias: bool = False) -> Linear:
            return Linear.of(matrix, vector, [at + name], bias=bias)

        def by_head(name: str) -> Tensor:
            held = matrix(at + name)
            assert isinstance(held, Tensor), "what each head multiplies is not packed"
            return held.view(spec.num_heads, -1, held.shape[1])

        low = latent.q_rank is not None
        return cls(
            q_a=linear("q_a", bias=latent.bias) if low else None,
            q_a_norm=NormWeights.of(latent.norm, f"{at}q_a_norm", vector) if low else None,
            q=linear("q_b" if low else "q"),
            kv_a=linear("kv_a", bias=latent.bias),
            kv_a_norm=NormWeights.of(latent.norm, f"{at}kv_a_norm", vector),
            k_b=by_head("k_b"),
            v_b=by_head("v_b"),
            absorbed=absorbed,
        )

    def __call__(
        self,
        ops: Operations,
        x: Tensor,
        spec: Attention,
        changes: HeadChanges,
        cache: Tensor,
        batch: PagedBatch,
        sinks: Tensor | None,
    ) -> Tensor:
        """x: [num_tokens, hidden_size]; cache: of the layer -> [num_tokens, num_heads * head_dim_v]."""
        latent = spec.latent
        assert latent is not None
        assert changes.turn is not None
        kv = self.kv_a(ops, x)
        if self.q_a is not None and self.q_a_norm is not None:
            x = self.q_a_norm(ops, self.q_a(ops, x))
        q = self.q(ops, x)
        if changes.scales is not None:
            q = q * changes.scales[:, None].to(q.dtype)
        weight = self.kv_a_norm.weight
        assert weight is not None
        absorbed = ops.write_latent(q, kv, weight, spec, changes.turn, cache, batch)
        heads = q.view(-1, spec.num_heads, spec.head_dim_k)
        ops.by_head(heads[..., : spec.head_dim_k - latent.rotary_dim], self.k_b, absorbed[..., : latent.rank])
        del q, kv, heads
        mixed = ops.attention(absorbed, cache, cache, batch, self.absorbed, sinks=sinks)
        del absorbed
        out = mixed.new_empty(len(mixed), spec.num_heads, spec.head_dim_v)
        ops.by_head(mixed, self.v_b, out)
        return out.flatten(-2)
