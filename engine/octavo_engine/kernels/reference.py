"""The decoder's operations in plain torch: the twin that every kernel, Triton's and native, is tested against.

Owns the meaning of each operation, shapes and treatment of edges included; runs on any device of torch. Clear
before quick: whatever reads or reduces does so in float32 and returns its input's dtype. Sampling has a module of
its own, `reference_sampling`; storage formats have `dequantize`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from octavo_models.layers import Activation, Norm, Rotary

CLAMP = 7.0  # of swiglu_clamped


def norm(x: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None) -> Tensor:
    """RMSNorm or LayerNorm over the last axis, as `spec.kind` says.

    x: [..., dim]; weight, bias: [dim], without a weight it normalizes alone. RMSNorm is `x / sqrt(mean(x²) + eps) * (weight + offset)` (Zhang & Sennrich
    2019); LayerNorm takes the mean away first. Computed in float32, weight included.
    """
    h = x.float()
    if spec.kind == "layer":
        h = h - h.mean(-1, keepdim=True)
    h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + spec.eps)
    if weight is not None:
        h = h * (weight.float() + spec.offset)
    if bias is not None:
        h = h + bias.float()
    return h.to(x.dtype)


def add_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The fused pair that opens every half of a layer: the new residual `x + residual`, and its norm.

    x, residual: [num_tokens, dim]. Returns (normed, residual), both [num_tokens, dim].
    """
    total = residual + x
    return norm(total, weight, spec, bias), total


def rotary_table(rotary: Rotary, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for `positions`, attention factor included: each [num_tokens, dim / 2], float32."""
    frequencies = torch.tensor(rotary.inverse_frequencies(), dtype=torch.float32, device=positions.device)
    angles = positions.float()[:, None] * frequencies[None, :]
    factor = rotary.attention_factor()
    return angles.cos() * factor, angles.sin() * factor


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Turn the first `2 * cos.shape[-1]` elements of each head; the rest pass unchanged.

    x: [num_tokens, num_heads, head_dim]; cos, sin: [num_tokens, dim / 2]. Pairs are (2i, 2i + 1) where
    `interleaved`, else (i, i + dim / 2).
    """
    dim = 2 * cos.shape[-1]
    turned, rest = x[..., :dim].float(), x[..., dim:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned[..., : dim // 2], turned[..., dim // 2 :]
    c, s = cos[:, None, :], sin[:, None, :]  # [num_tokens, 1, dim / 2]
    first, second = a * c - b * s, b * c + a * s
    joined = torch.stack((first, second), -1).flatten(-2) if interleaved else torch.cat((first, second), -1)
    return torch.cat((joined.to(x.dtype), rest), -1)


def kv_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write each token's key and value to its slot, in place.

    k, v: [num_tokens, num_kv_heads, head_dim]; caches: [num_blocks, block_size, num_kv_heads, head_dim]; slots:
    [num_tokens] = block * block_size + offset. Slots of block 0, the null block, are not written.
    """
    kept = slots >= k_cache.shape[1]
    k_cache.flatten(0, 1)[slots[kept]] = k[kept].to(k_cache.dtype)
    v_cache.flatten(0, 1)[slots[kept]] = v[kept].to(v_cache.dtype)


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: list[Tensor],
    query_starts: list[int],
    seq_lens: list[int],
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    chunk: int | None = None,
    alibi_slopes: tuple[float, ...] = (),
    sinks: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """Attention of a mixed batch, prefill chunks and decodes alike, over paged keys and values.

    Where it is not `causal`, a query sees all keys of its request, or those nearer than a window.

    q: [num_tokens, num_heads, head_dim_k]; caches: [num_blocks, block_size, num_kv_heads, head_dim]. Request r owns
    the rows query_starts[r] … query_starts[r + 1] - 1 of `q`; they are the last of its seq_lens[r] tokens, whose
    keys are already written; block_tables[r] has its blocks in order, [num_blocks]. Query head h reads KV head
    h // (num_heads / num_kv_heads). sinks: [num_heads], a logit a head that has no value. Blocks wholly before the window may be the null block: they are masked.
    Returns [num_tokens, num_heads, head_dim_v].
    """
    num_heads, block_size, num_kv_heads = q.shape[1], k_cache.shape[1], k_cache.shape[2]
    out = q.new_empty(q.shape[0], num_heads, v_cache.shape[3])
    for r, seq_len in enumerate(seq_lens):
        start, end = query_starts[r], query_starts[r + 1]
        first_query = seq_len - (end - start)
        first_key = 0 if window is None else max(0, first_query - window + 1)
        if chunk is not None:
            first_key = max(first_key, first_query // chunk * chunk)
        first_block, end_block = first_key // block_size, -(-seq_len // block_size)
        blocks = block_tables[r][first_block:end_block]
        # [num_keys, num_kv_heads, head_dim] -> [num_kv_heads, 1, num_keys, head_dim]
        num_keys = seq_len - first_block * block_size
        keys = k_cache[blocks].flatten(0, 1)[:num_keys].float().transpose(0, 1)[:, None]
        values = v_cache[blocks].flatten(0, 1)[:num_keys].float().transpose(0, 1)[:, None]
        # [num_queries, num_heads, head_dim] -> [num_kv_heads, heads per KV head, num_queries, head_dim]
        queries = q[start:end].float().transpose(0, 1).reshape(num_kv_heads, -1, end - start, q.shape[2])
        scores = (queries * scale) @ keys.transpose(-1, -2)
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        key_at = torch.arange(first_block * block_size, seq_len, device=q.device)[None, :]
        query_at = torch.arange(first_query, seq_len, device=q.device)[:, None]
        masked = key_at > (query_at if causal else seq_len)
        if alibi_slopes:
            slopes = torch.tensor(alibi_slopes, dtype=torch.float32, device=q.device)
            scores = scores + slopes.reshape(num_kv_heads, -1, 1, 1) * (key_at - query_at)
        if window is not None:
            masked = masked | (key_at <= query_at - window)
            if not causal:
                masked = masked | (key_at >= query_at + window)
        if chunk is not None:
            masked = masked | (key_at < query_at // chunk * chunk)
        # Null blocks may hold anything, NaN included; a weight of zero would not hide that.
        hidden = masked.all(0)[:, None]
        scores = scores.masked_fill(masked, -torch.inf)
        if sinks is not None:  # they take their share, and add nothing
            shares = sinks.float().reshape(num_kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
            probabilities = torch.cat((scores, shares), -1).softmax(-1)[..., :-1]
        else:
            probabilities = scores.softmax(-1)
        mixed = probabilities @ values.masked_fill(hidden, 0.0)
        out[start:end] = mixed.flatten(0, 1).transpose(0, 1).to(q.dtype)
    return out


def activation(x: Tensor, kind: Activation) -> Tensor:
    """The MLP's nonlinearity, elementwise. Raises ValueError for one that is no function of a single number."""
    match kind:
        case "quick_gelu":
            return x * torch.sigmoid(1.702 * x)
        case "xielu" | "swiglu_clamped":
            raise ValueError(f"{kind} is no elementwise function")
        case "silu":
            return functional.silu(x)
        case "gelu":
            return functional.gelu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
        case "relu":
            return functional.relu(x)
        case "relu2":
            return functional.relu(x).square()


def xielu(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """xIELU (Huang & Schlag 2024), beta 0.5: `positive * x² + x / 2` above 0, `negative * (exp(x) - 1 - x) + x / 2` below.

    positive, negative: [1], at least 0.
    """
    h = x.float()
    below = negative.float() * (torch.expm1(h.clamp(max=0.0)) - h)
    return (torch.where(h > 0, positive.float() * h.square(), below) + 0.5 * h).to(x.dtype)


def gated(gate_up: Tensor, kind: Activation) -> Tensor:
    """`act(gate) * up` of a fused projection. gate_up: [num_tokens, 2 * size], gate first -> [num_tokens, size].

    swiglu_clamped: `(up + 1) * gate * sigmoid(1.702 * gate)`, gate at most 7, up within ±7.
    """
    gate, up = gate_up.chunk(2, -1)
    if kind == "swiglu_clamped":
        gate, up = gate.clamp(max=CLAMP), up.clamp(-CLAMP, CLAMP)
        return activation(gate, "quick_gelu") * (up + 1)
    return activation(gate, kind) * up


def soft_cap_logits(logits: Tensor, multiplier: float, soft_cap: float | None) -> Tensor:
    """`multiplier * logits`, then `cap * tanh(x / cap)` where there is a cap. logits: [..., vocab] -> float32."""
    scaled = logits.float() * multiplier
    return scaled if soft_cap is None else soft_cap * torch.tanh(scaled / soft_cap)
