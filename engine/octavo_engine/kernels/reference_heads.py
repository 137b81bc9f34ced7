"""Changes the heads of q and k before they meet, in plain torch: the twin of `triton.qkv`.

Owns the order: clip, norm, rotary (norm last where the model says so), query scaling.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.kernels import reference
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_models.layers import Attention, Norm, QueryScaling


def changed_heads(qkv: Tensor, spec: Attention, changes: HeadChanges) -> tuple[Tensor, Tensor, Tensor]:
    """qkv: [num_tokens, q_size + k_size + v_size] -> q, k and v: [num_tokens, heads, head_dim] each, or no heads."""
    n = len(qkv)
    q, k, v = torch.split(_clipped(qkv, spec), [spec.q_size, spec.k_size, spec.v_size], -1)
    q = q.reshape(n, spec.num_heads, spec.head_dim_k)
    k = k.reshape(n, spec.own_kv_heads, spec.head_dim_k)
    v = v.reshape(n, spec.own_kv_heads, spec.head_dim_v)
    if spec.v_norm is not None:
        v = reference.norm(v, None, spec.v_norm)
    if spec.qk_norm is not None and not spec.qk_norm_after_rotary:
        q, k = _normed(q, k, spec, spec.qk_norm, changes)
    if spec.rotary is not None and changes.turn is not None:
        q = reference.apply_rotary(q, *changes.turn, interleaved=spec.rotary.interleaved)
        k = reference.apply_rotary(k, *changes.turn, interleaved=spec.rotary.interleaved)
    if spec.qk_norm is not None and spec.qk_norm_after_rotary:
        q, k = _normed(q, k, spec, spec.qk_norm, changes)
    if changes.scales is not None:
        q = (q.float() * changes.scales[:, None, None]).to(q.dtype)
    return q, k, v


def write_latent(
    q: Tensor,
    kv: Tensor,
    norm: Tensor,
    spec: Attention,
    turn: tuple[Tensor, Tensor],
    cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """See `Operations.write_latent`; what is not set of the result is zero."""
    latent, interleaved = spec.latent, spec.rotary is not None and spec.rotary.interleaved
    assert latent is not None
    c, key = torch.split(kv, [latent.rank, latent.rotary_dim], -1)
    key = reference.apply_rotary(key[:, None], *turn, interleaved=interleaved)
    token = torch.cat((reference.norm(c, norm, latent.norm)[:, None], key), -1)
    kept = slots >= cache.shape[1]
    cache.flatten(0, 1)[slots[kept]] = token[kept].to(cache.dtype)
    heads = q.view(-1, spec.num_heads, spec.head_dim_k)[..., -latent.rotary_dim :]
    out = q.new_zeros(len(q), spec.num_heads, latent.width)
    out[..., latent.rank :] = reference.apply_rotary(heads, *turn, interleaved=interleaved)
    return out


def head_sums(qkv: Tensor, spec: Attention) -> Tensor:
    """[num_tokens, 4] float32: the sum of q's elements, of their squares, and the same of k's."""
    q, k, _ = torch.split(_clipped(qkv, spec).float(), [spec.q_size, spec.k_size, spec.v_size], -1)
    return torch.stack((q.sum(-1), q.square().sum(-1), k.sum(-1), k.square().sum(-1)), -1)


def query_scales(scaling: QueryScaling, positions: Tensor) -> Tensor:
    """positions: [num_tokens] -> [num_tokens] float32."""
    periods = (positions + scaling.offset) // scaling.period
    return 1.0 + scaling.beta * torch.log1p(periods.float())


def _clipped(qkv: Tensor, spec: Attention) -> Tensor:
    return qkv if spec.qkv_clip is None else qkv.clamp(-spec.qkv_clip, spec.qkv_clip)


def _normed(q: Tensor, k: Tensor, spec: Attention, norm: Norm, changes: HeadChanges) -> tuple[Tensor, Tensor]:
    """q and k: [num_tokens, heads, head_dim_k]."""
    normed = []
    for i, (x, weight, bias) in enumerate(
        ((q, changes.q_norm, changes.q_norm_bias), (k, changes.k_norm, changes.k_norm_bias))
    ):
        if spec.qk_norm_span == "head":
            normed.append(reference.norm(x, weight, norm, bias))
            continue
        own = None if weight is None else weight.reshape(x.shape[1:])
        own_bias = None if bias is None else bias.reshape(x.shape[1:])
        if spec.qk_norm_span == "each_head":
            normed.append(reference.norm(x, own, norm, own_bias))
            continue
        assert changes.sums is not None, "norms of the width need its sums"
        size = changes.num_ranks * x[0].numel()
        mean, square = (changes.sums[:, 2 * i + j, None, None] / size for j in range(2))
        h = x.float()
        if norm.kind == "layer":
            h, square = h - mean, square - mean.square()
        h = h * torch.rsqrt(square + norm.eps)
        if own is not None:
            h = h * (own.float() + norm.offset)
        normed.append((h if own_bias is None else h + own_bias.float()).to(x.dtype))
    return normed[0], normed[1]
