"""`operations.Operations` by Triton kernels, on one device. What no kernel betters stays torch's.

Owns which kernel serves which operation and what a GPU is refused; shapes and launches are the kernels'.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import (
    Bans,
    Float8Weight,
    KnownTokens,
    Logprobs,
    Operations,
    PagedBatch,
    Penalties,
    StepInputs,
    StepRows,
    TokenCounts,
    Weight,
)
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.reference_sampling import SamplingBatch
from octavo_engine.kernels.triton import adapters
from octavo_engine.kernels.triton.activation import activation
from octavo_engine.kernels.triton.attention_tile import LOG2_E, ScoreBiases
from octavo_engine.kernels.triton.decode_step import scratch_bytes
from octavo_engine.kernels.triton.direct_launch import launcher_on
from octavo_engine.kernels.triton.elementwise import gate_by_sigmoid, xielu
from octavo_engine.kernels.triton.experts import experts
from octavo_engine.kernels.triton.experts import scratch_bytes as scratch_of_experts
from octavo_engine.kernels.triton.float8_matmul import matmul_float8
from octavo_engine.kernels.triton.head_sums import head_sums
from octavo_engine.kernels.triton.inputs import append_tokens, build_inputs
from octavo_engine.kernels.triton.latent import write_latent
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.logits import ban, penalize, soft_cap_logits
from octavo_engine.kernels.triton.logprobs import logprobs
from octavo_engine.kernels.triton.norm import norm
from octavo_engine.kernels.triton.packed_matmul import matmul_packed, parts_bytes
from octavo_engine.kernels.triton.paged_attention import PagedAttention
from octavo_engine.kernels.triton.pooling import pool
from octavo_engine.kernels.triton.rotary import query_scales, rotary_table
from octavo_engine.kernels.triton.routing import route
from octavo_engine.kernels.triton.sampling import sample
from octavo_models.layers import Activation, Attention, Experts, Norm, QueryScaling, Rotary, Router
from octavo_models.pooling import PoolingKind


class TritonOperations(Operations):
    """See `operations.Operations` for every method."""

    prefers_packed = True

    def __init__(self, launch: Launcher) -> None:
        self.launch = launch
        self._frequencies: dict[Rotary, Tensor] = {}
        self._slopes: dict[tuple[float, ...], Tensor] = {}

    @classmethod
    def on(cls, device: torch.device, tuning: str | None = None) -> TritonOperations:
        """The operations on a device. `tuning`: a file that `octavo_engine.kernels.tune` wrote.

        Raises:
            ExecutorError: the GPU is too old, or the file is none.
        """
        return cls(launcher_on(Gpu.of(device), tuning))

    def norm(self, x: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None) -> Tensor:
        return norm(self.launch, x, None, weight, spec, bias)[0]

    def add_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return norm(self.launch, x, residual, weight, spec, bias)

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        return activation(self.launch, gate_up, kind, gated=True)

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        return activation(self.launch, x, kind, gated=False)

    def xielu(self, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return xielu(self.launch, x, positive, negative)

    def gate_by_sigmoid(self, x: Tensor, gate: Tensor) -> Tensor:
        return gate_by_sigmoid(self.launch, x, gate)

    def matmul(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        match weight:
            case PackedWeight():
                return matmul_packed(self.launch, x, weight, bias)
            case Float8Weight():
                self.launch.gpu.require_float8("a matrix product in float8")
                return matmul_float8(self.launch, x, weight, bias)
        return linear(x, weight, bias)  # cuBLAS

    def matmul_scratch(self, num_tokens: int, columns: int) -> int:
        return parts_bytes(self.launch, columns, num_tokens)

    def add_adapters(self, y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
        adapters.add_adapters(self.launch, y, x, weights, rows)

    def adapter_tile(self, num_rows: int) -> int:
        return adapters.tile_rows(self.launch, num_rows)

    def adapters_scratch(self, num_tokens: int, width: int) -> int:
        return adapters.scratch_bytes(self.launch, num_tokens, width)

    def route(
        self, logits: Tensor, router: Router, num_chosen: int, correction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return route(self.launch, logits, router, num_chosen, correction)

    def experts(self, x: Tensor, chosen: Tensor, shares: Tensor, weights: ExpertWeights, spec: Experts) -> Tensor:
        return experts(self.launch, x, chosen, shares, weights, spec)

    def experts_scratch(self, num_tokens: int, spec: Experts) -> int:
        return scratch_of_experts(self.launch, num_tokens, spec)

    def rotary_table(self, rotary: Rotary, positions: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = self._frequencies.get(rotary)
        if frequencies is None:  # copied once: a captured graph can't wait for the host
            frequencies = torch.tensor(rotary.inverse_frequencies(), dtype=torch.float32, device=positions.device)
            self._frequencies[rotary] = frequencies
        return rotary_table(self.launch, frequencies, rotary.attention_factor(), positions)

    def query_scales(self, scaling: QueryScaling, positions: Tensor) -> Tensor:
        return query_scales(self.launch, scaling, positions)

    def head_sums(self, qkv: Tensor, spec: Attention) -> Tensor:
        return head_sums(self.launch, qkv, spec)

    def write_qkv(
        self,
        qkv: Tensor,
        spec: Attention,
        changes: HeadChanges,
        k_cache: Tensor,
        v_cache: Tensor,
        batch: PagedBatch,
        kv_scales: tuple[float, float] = (1.0, 1.0),
    ) -> Tensor:
        over = self._over(batch, spec, k_cache, v_cache, kv_scales)
        return over.write(batch, qkv, changes, k_cache, v_cache)

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        batch: PagedBatch,
        spec: Attention,
        kv_scales: tuple[float, float] = (1.0, 1.0),
        sinks: Tensor | None = None,
    ) -> Tensor:
        biases = ScoreBiases(self._slopes_of(spec, q.device), sinks)
        return self._over(batch, spec, k_cache, v_cache, kv_scales).attend(batch, q, k_cache, v_cache, biases)

    def write_latent(
        self,
        q: Tensor,
        kv: Tensor,
        norm: Tensor,
        spec: Attention,
        turn: tuple[Tensor, Tensor],
        cache: Tensor,
        batch: PagedBatch,
    ) -> Tensor:
        return write_latent(self.launch, q, kv, norm, spec, turn, cache, batch.slots)

    def by_head(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        torch.bmm(x.transpose(0, 1), weight.transpose(1, 2), out=out.transpose(0, 1))  # cuBLAS

    def _slopes_of(self, spec: Attention, device: torch.device) -> Tensor | None:
        """[num_heads] float32, in units of log2."""
        if not spec.alibi_slopes:
            return None
        slopes = self._slopes.get(spec.alibi_slopes)
        if slopes is None:  # copied once, as frequencies are
            slopes = torch.tensor(spec.alibi_slopes, dtype=torch.float32, device=device) * LOG2_E
            self._slopes[spec.alibi_slopes] = slopes
        return slopes

    def _over(
        self,
        batch: PagedBatch,
        spec: Attention,
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: tuple[float, float],
    ) -> PagedAttention:
        """Find what this batch has settled for such a layer, or settle it."""
        key = id(self.launch), id(spec), kv_scales
        made = batch.settled.get(key)
        if made is None or not made.takes(k_cache, v_cache):
            made = batch.settled[key] = PagedAttention(self.launch, spec, batch, k_cache, v_cache, kv_scales)
        return made

    def pool(self, hidden: Tensor, starts: Tensor, kind: PoolingKind) -> Tensor:
        return pool(self.launch, hidden, starts, kind)

    def attention_scratch(self, num_decodes: int, max_len: int, spec: Attention) -> int:
        return scratch_bytes(self.launch, num_decodes, max_len, spec)

    def soft_cap_logits(self, logits: Tensor, multiplier: float, soft_cap: float | None) -> Tensor:
        return soft_cap_logits(self.launch, logits, multiplier, soft_cap)

    def penalize(self, logits: Tensor, penalties: Penalties, known: KnownTokens, counts: TokenCounts) -> None:
        penalize(self.launch, logits, penalties, known, counts)

    def ban(self, logits: Tensor, bans: Bans | None, known: KnownTokens, allowed: Tensor | None = None) -> None:
        ban(self.launch, logits, bans, known, allowed)

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        return sample(self.launch, logits, batch)

    def logprobs(self, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
        return logprobs(self.launch, logits, tokens, num_top)

    def build_inputs(
        self, token_ids: Tensor, block_tables: tuple[Tensor, ...], step: StepRows, block_size: int, num_tokens: int
    ) -> StepInputs:
        return build_inputs(self.launch, token_ids, block_tables, step, block_size, num_tokens)

    def append_tokens(self, token_ids: Tensor, rows: Tensor, positions: Tensor, drawn: Tensor) -> None:
        append_tokens(self.launch, token_ids, rows, positions, drawn)
