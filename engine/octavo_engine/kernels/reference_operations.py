"""`operations.Operations` in plain torch: the twin of `triton.operations`, and what the torch executor runs on a CPU.

Owns the batching, one row or request after the other; the numbers are those of `reference`, `reference_sampling` and
`reference_quantized`. Clear before quick, and free to read tensors back, which kernels are not.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo_engine.kernels import reference, reference_adapters, reference_experts, reference_heads
from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import (
    IN_PROMPT,
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
from octavo_engine.kernels.reference_quantized import FLOAT8_MAX, matmul_float8, widen
from octavo_engine.kernels.reference_sampling import (
    NUMBERS,
    Filters,
    SamplingBatch,
    apply_penalties,
    sample,
    token_logprobs,
)
from octavo_models.layers import Activation, Attention, Experts, Norm, QueryScaling, Rotary, Router
from octavo_models.pooling import PoolingKind

POOLINGS: dict[PoolingKind, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(0),
    "max": lambda states: states.amax(0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


class ReferenceOperations(Operations):
    """See `operations.Operations` for every method."""

    prefers_packed = False

    def norm(self, x: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None) -> Tensor:
        return reference.norm(x, weight, spec, bias)

    def add_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return reference.add_norm(x, residual, weight, spec, bias)

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        return reference.gated(gate_up, kind)

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        return reference.activation(x, kind)

    def xielu(self, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return reference.xielu(x, positive, negative)

    def gate_by_sigmoid(self, x: Tensor, gate: Tensor) -> Tensor:
        return x.copy_(x.float() * torch.sigmoid(gate.float()))

    def matmul(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        match weight:
            case PackedWeight():
                return linear(x, widen(weight, x.dtype), bias)
            case Float8Weight():
                out = matmul_float8(x, weight)
                return out if bias is None else out + bias
        return linear(x, weight, bias)

    def matmul_scratch(self, num_tokens: int, columns: int) -> int:
        del num_tokens, columns
        return 0  # as `attention_scratch`

    def add_adapters(self, y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
        reference_adapters.add_adapters(y, x, weights, rows)

    def adapter_tile(self, num_rows: int) -> int:
        return max(1, num_rows)  # a product for each adapter

    def adapters_scratch(self, num_tokens: int, width: int) -> int:
        del num_tokens, width
        return 0  # as `attention_scratch`

    def route(
        self, logits: Tensor, router: Router, num_chosen: int, correction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return reference_experts.route(logits, router, num_chosen, correction)

    def experts(self, x: Tensor, chosen: Tensor, shares: Tensor, weights: ExpertWeights, spec: Experts) -> Tensor:
        return reference_experts.experts(x, chosen, shares, weights, spec)

    def experts_scratch(self, num_tokens: int, spec: Experts) -> int:
        del num_tokens, spec
        return 0  # as `attention_scratch`

    def rotary_table(self, rotary: Rotary, positions: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rotary_table(rotary, positions)

    def query_scales(self, scaling: QueryScaling, positions: Tensor) -> Tensor:
        return reference_heads.query_scales(scaling, positions)

    def head_sums(self, qkv: Tensor, spec: Attention) -> Tensor:
        return reference_heads.head_sums(qkv, spec)

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
        q, k, v = reference_heads.changed_heads(qkv, spec, changes)
        if not spec.own_kv_heads:
            return q
        if k_cache.dtype == torch.float8_e4m3fn:
            k, v = (
                (x.float() / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)
                for x, scale in zip((k, v), kv_scales, strict=True)
            )
            # torch can't index float8 by a mask; the bytes are the same.
            k, v, k_cache, v_cache = (x.view(torch.uint8) for x in (k, v, k_cache, v_cache))
        reference.kv_write(k, v, k_cache, v_cache, batch.slots)
        return q

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
        if k_cache.dtype == torch.float8_e4m3fn:
            k_cache, v_cache = k_cache.float() * kv_scales[0], v_cache.float() * kv_scales[1]
        if spec.latent is not None:
            v_cache = v_cache[..., : spec.latent.rank]
        block_size = k_cache.shape[1]
        out = q.new_zeros(q.shape[0], spec.num_heads, spec.head_dim_v)
        starts, rows = batch.query_starts.tolist(), batch.rows.tolist()
        for r, seq_len in enumerate(batch.seq_lens.tolist()):
            if seq_len == 0:
                continue
            table = batch.block_tables[rows[r], : -(-seq_len // block_size)].long()
            queries = slice(starts[r], starts[r + 1])
            out[queries] = reference.paged_attention(
                q[queries],
                k_cache,
                v_cache,
                [table],
                [0, queries.stop - queries.start],
                [seq_len],
                scale=spec.scale,
                window=spec.window,
                soft_cap=spec.soft_cap,
                chunk=spec.chunk,
                alibi_slopes=spec.alibi_slopes,
                sinks=sinks,
                causal=spec.causal,
            )
        return out

    def pool(self, hidden: Tensor, starts: Tensor, kind: PoolingKind) -> Tensor:
        edges = starts.tolist()
        prompts = [hidden[first:end].float() for first, end in pairwise(edges)]
        return torch.stack([POOLINGS[kind](states) for states in prompts])

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
        return reference_heads.write_latent(q, kv, norm, spec, turn, cache, batch.slots)

    def by_head(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        out.copy_(torch.einsum("thi,hoi->tho", x, weight))

    def attention_scratch(self, num_decodes: int, max_len: int, spec: Attention) -> int:
        del num_decodes, max_len, spec
        return 0  # a CPU's memory is not divided beforehand

    def soft_cap_logits(self, logits: Tensor, multiplier: float, soft_cap: float | None) -> Tensor:
        return reference.soft_cap_logits(logits, multiplier, soft_cap)

    def penalize(self, logits: Tensor, penalties: Penalties, known: KnownTokens, counts: TokenCounts) -> None:
        vocab = logits.shape[1]
        slots, counted = counts.slots.tolist(), counts.counted.tolist()
        for i, (prompt, output) in enumerate(_known(known)):
            if slots[i] < 0:
                continue
            held = counts.table[slots[i]]
            if counted[i] == 0:
                held.zero_()
                held[prompt] = IN_PROMPT
            new = torch.tensor(output[max(counted[i] - len(prompt), 0) :], dtype=torch.int64, device=held.device)
            held += torch.bincount(new, minlength=vocab)
            every = torch.arange(vocab, device=held.device)
            logits[i] = apply_penalties(
                logits[i],
                every[held >= IN_PROMPT].tolist(),
                every.repeat_interleave(held % IN_PROMPT).tolist(),
                repetition=penalties.repetition[i].item(),
                frequency=penalties.frequency[i].item(),
                presence=penalties.presence[i].item(),
            )

    def ban(self, logits: Tensor, bans: Bans | None, known: KnownTokens, allowed: Tensor | None = None) -> None:
        vocab = logits.shape[1]
        if allowed is not None:
            bits = (allowed[:, :, None] >> torch.arange(32, device=allowed.device)) & 1
            logits.masked_fill_(bits.flatten(1)[:, :vocab] == 0, -torch.inf)
        if bans is None:
            return
        outputs = [output for _, output in _known(known)]
        starts, prefixes = bans.prefix_starts.tolist(), bans.prefixes.tolist()
        for b, (row, token) in enumerate(zip(bans.rows.tolist(), bans.tokens.tolist(), strict=True)):
            prefix = prefixes[starts[b] : starts[b + 1]]
            if token < vocab and (not prefix or outputs[row][-len(prefix) :] == prefix):
                logits[row, token] = -torch.inf

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        drawn = []
        for i, row in enumerate(logits):
            best = row.max()
            if batch.positions[i] == 0 or not torch.isfinite(best):
                drawn.append(-1 if batch.positions[i] == 0 or best == -torch.inf else -2)
                continue
            numbers = {name: getattr(batch, name)[i].item() for name in NUMBERS}
            filters = Filters(top_k=int(batch.top_k[i]), seed=int(batch.seeds[i]), **numbers)
            drawn.append(sample(row, filters, int(batch.positions[i])))
        return torch.tensor(drawn, dtype=torch.int64, device=logits.device)

    def logprobs(self, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
        known = [t if 0 <= t < logits.shape[1] else 0 for t in tokens.tolist()]
        scored = [token_logprobs(row, token, num_top) for row, token in zip(logits, known, strict=True)]

        def tensor(values: list[float] | list[int], dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=logits.device).reshape(*shape)

        n = len(scored)
        return Logprobs(
            own=tensor([own for own, _, _ in scored], torch.float32, n),
            ranks=tensor([rank for _, rank, _ in scored], torch.int64, n),
            top_ids=tensor([t for _, _, top in scored for t, _ in top], torch.int64, n, num_top),
            top=tensor([p for _, _, top in scored for _, p in top], torch.float32, n, num_top),
        )

    def build_inputs(
        self, token_ids: Tensor, block_tables: tuple[Tensor, ...], step: StepRows, block_size: int, num_tokens: int
    ) -> StepInputs:
        tables = (token_ids, *block_tables)
        starts = step.starts.tolist()
        runs = zip(step.run_tables.tolist(), step.run_rows.tolist(), step.run_columns.tolist(), strict=True)
        for j, (table, row, column) in enumerate(runs):
            values = step.values[starts[j] : starts[j + 1]]
            tables[table][row, column : column + len(values)] = values
        device = token_ids.device
        tokens = torch.zeros(num_tokens, dtype=torch.int64, device=device)
        positions = torch.zeros_like(tokens)
        slots = tuple(torch.zeros_like(tokens) for _ in block_tables)
        seq_lens = torch.zeros_like(step.rows)
        query_starts = step.query_starts.tolist()
        for r, (row, first) in enumerate(zip(step.rows.tolist(), step.num_computed.tolist(), strict=True)):
            if row < 0:
                continue
            start, end = query_starts[r], query_starts[r + 1]
            at = torch.arange(first, first + end - start, device=device)
            tokens[start:end], positions[start:end] = token_ids[row, at].long(), at
            for slot, table in zip(slots, block_tables, strict=True):
                slot[start:end] = table[row, at // block_size].long() * block_size + at % block_size
            seq_lens[r] = first + end - start
        return StepInputs(tokens, positions, seq_lens, slots)

    def append_tokens(self, token_ids: Tensor, rows: Tensor, positions: Tensor, drawn: Tensor) -> None:
        kept = (drawn >= 0) & (rows >= 0) & (positions < token_ids.shape[1])
        token_ids[rows[kept].long(), positions[kept]] = drawn[kept].int()


def _known(known: KnownTokens) -> list[tuple[list[int], list[int]]]:
    """Prompt and output of each row."""
    lengths, prompts = known.lengths.tolist(), known.prompt_lens.tolist()
    tokens = [known.token_ids[row, :length].tolist() for row, length in zip(known.rows.tolist(), lengths, strict=True)]
    return [(held[:prompt], held[prompt:]) for held, prompt in zip(tokens, prompts, strict=True)]
