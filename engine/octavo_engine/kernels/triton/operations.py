"""`operations.Operations` by Triton kernels, on one device. What no kernel betters stays torch's.

Owns which kernel serves which operation and what a card is refused; shapes and launches are the kernels'.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

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
from octavo_engine.kernels.triton.activation import activation
from octavo_engine.kernels.triton.arguments import ANY, CACHED, FLOATS, expect
from octavo_engine.kernels.triton.decode_attention import decode_attention, scratch_bytes
from octavo_engine.kernels.triton.float8_matmul import matmul_float8
from octavo_engine.kernels.triton.inputs import append_tokens, build_inputs
from octavo_engine.kernels.triton.launch import Card, Launcher, tuned_launcher
from octavo_engine.kernels.triton.logits import ban, penalize, soft_cap_logits
from octavo_engine.kernels.triton.logprobs import logprobs
from octavo_engine.kernels.triton.norm import norm
from octavo_engine.kernels.triton.packed_matmul import matmul_packed, parts_bytes
from octavo_engine.kernels.triton.prefill_attention import prefill_attention
from octavo_engine.kernels.triton.qkv import write_qkv
from octavo_engine.kernels.triton.rotary import rotary_table
from octavo_engine.kernels.triton.sampling import sample
from octavo_models.layers import Activation, Attention, Norm, Rotary


class TritonOperations(Operations):
    """See `operations.Operations` for every method."""

    prefers_packed = True

    def __init__(self, launch: Launcher) -> None:
        self.launch = launch
        self._frequencies: dict[Rotary, Tensor] = {}

    @classmethod
    def on(cls, device: torch.device, tuning: str | None = None) -> TritonOperations:
        """For a device. `tuning`: a file that `octavo_engine.kernels.tune` wrote.

        Raises:
            ExecutorError: the card is too old, or the file is none.
        """
        return cls(tuned_launcher(Card.of(device), tuning))

    def norm(self, x: Tensor, weight: Tensor, spec: Norm, bias: Tensor | None = None) -> Tensor:
        return norm(self.launch, x, None, weight, spec, bias)[0]

    def add_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, spec: Norm, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return norm(self.launch, x, residual, weight, spec, bias)

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        return activation(self.launch, gate_up, kind, gated=True)

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        return activation(self.launch, x, kind, gated=False)

    def matmul(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        match weight:
            case PackedWeight():
                return matmul_packed(self.launch, x, weight, bias)
            case Float8Weight():
                self.launch.card.require_float8("a matrix product in float8")
                return matmul_float8(self.launch, x, weight, bias)
        return linear(x, weight, bias)  # cuBLAS

    def matmul_scratch(self, num_tokens: int, columns: int) -> int:
        return parts_bytes(self.launch, columns, num_tokens)

    def rotary_table(self, rotary: Rotary, positions: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = self._frequencies.get(rotary)
        if frequencies is None:  # copied once: a captured graph can't wait for the host
            frequencies = torch.tensor(rotary.inverse_frequencies(), dtype=torch.float32, device=positions.device)
            self._frequencies[rotary] = frequencies
        return rotary_table(self.launch, frequencies, rotary.attention_factor(), positions)

    def write_qkv(
        self,
        qkv: Tensor,
        spec: Attention,
        turn: tuple[Tensor, Tensor] | None,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        k_cache: Tensor,
        v_cache: Tensor,
        slots: Tensor,
        kv_scales: tuple[float, float] = (1.0, 1.0),
    ) -> Tensor:
        self._check_cache(k_cache)
        return write_qkv(self.launch, qkv, spec, turn, q_norm, k_norm, k_cache, v_cache, slots, kv_scales)

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        batch: PagedBatch,
        spec: Attention,
        kv_scales: tuple[float, float] = (1.0, 1.0),
    ) -> Tensor:
        self._check_cache(k_cache)
        expect(q, (ANY, spec.num_heads, spec.head_dim_k), *FLOATS)
        expect(k_cache, (ANY, ANY, spec.num_kv_heads, spec.head_dim_k), *CACHED, strided=True)
        expect(v_cache, (*k_cache.shape[:2], spec.num_kv_heads, spec.head_dim_v), k_cache.dtype, strided=True)
        for numbers in (batch.rows, batch.query_starts, batch.seq_lens):
            expect(numbers, (ANY,), torch.int32)
        expect(batch.block_tables, (ANY, ANY), torch.int32, strided=True)
        out = torch.empty(q.shape[0], spec.num_heads, spec.head_dim_v, dtype=q.dtype, device=q.device)
        if batch.num_decodes > 0:
            decode_attention(self.launch, q, k_cache, v_cache, out, batch, spec, kv_scales)
        if batch.num_decodes < batch.num_requests:
            prefill_attention(self.launch, q, k_cache, v_cache, out, batch, spec, kv_scales)
        return out

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

    def _check_cache(self, cache: Tensor) -> None:
        if cache.dtype == torch.float8_e4m3fn:
            self.launch.card.require_float8("a KV cache in float8")
