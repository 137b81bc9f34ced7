"""Attention in plain numpy, float64: what the native kernels are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matmul_twin import from_bf16, to_bf16
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """One layer's attention. Rotary turns the first `rotary_dim` elements of a head; 0: none."""

    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim_k: int = 16
    head_dim_v: int = 16
    window: int = 0
    soft_cap: float = 0.0
    rotary_dim: int = 16
    interleaved: bool = False
    norms: bool = False
    biases: bool = False
    chunk: int = 0
    slopes: bool = False
    sinks: bool = False
    values_from: int = -1  # values are the elements of keys from here on; -1: they are apart

    @property
    def scale(self) -> float:
        return self.head_dim_k**-0.5

    @property
    def frequencies(self) -> list[float]:
        return [100.0 ** (-2 * i / self.rotary_dim) for i in range(self.rotary_dim // 2)] if self.rotary_dim else []

    @property
    def sizes(self) -> tuple[int, int, int]:
        kv = self.num_kv_heads
        values = kv * self.head_dim_v if self.values_from < 0 else 0
        return self.num_heads * self.head_dim_k, kv * self.head_dim_k, values

    @property
    def width(self) -> int:
        return sum(self.sizes)


@dataclass
class Parameters:
    """Norm weights [head_dim_k] and biases, as a layer of `shape` has them."""

    q_norm: NDArray[np.float32]
    k_norm: NDArray[np.float32]
    bias: NDArray[np.float32]  # [width]
    slopes: NDArray[np.float32]  # [num_heads]
    sinks: NDArray[np.float32]  # [num_heads]
    eps: float = field(default=1e-5)

    @staticmethod
    def random(shape: Shape, rng: np.random.Generator) -> Parameters:
        norms = rng.uniform(0.5, 1.5, (2, shape.head_dim_k)).astype(np.float32)
        bias = rng.standard_normal(shape.width).astype(np.float32)
        slopes, sinks = rng.uniform(0, [[0.05], [3.0]], (2, shape.num_heads)).astype(np.float32)
        return Parameters(norms[0], norms[1], bias, slopes, sinks)


def turn(x: Array, shape: Shape) -> Array:
    """x: [tokens, heads, head_dim], token i at position i."""
    half = shape.rotary_dim // 2
    if half == 0:
        return x
    angles = np.arange(len(x))[:, None] * np.array(shape.frequencies)[None]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    out = x.copy()
    first = np.s_[..., 0 : 2 * half : 2] if shape.interleaved else np.s_[..., :half]
    second = np.s_[..., 1 : 2 * half : 2] if shape.interleaved else np.s_[..., half : 2 * half]
    a, b = x[first], x[second]
    out[first], out[second] = a * cos - b * sin, b * cos + a * sin
    return out


def rounded(x: Array) -> Array:
    return from_bf16(to_bf16(x)).astype(np.float64)


def attention(
    qkv: NDArray[np.float32], shape: Shape, parameters: Parameters, *, bf16: bool = False
) -> tuple[Array, Array]:
    """A whole sequence from its first token on: [tokens, width] -> [tokens, num_heads * head_dim_v].

    Beside each output what its terms add up to without their signs: how far off it may be is a part of that. `bf16`
    rounds queries, keys and values; the kernel's weights too are rounded, at a scale that isn't known here.
    """
    x = qkv.astype(np.float64)
    if shape.biases:
        x = x + parameters.bias
    q_size, k_size, _ = shape.sizes
    q, k, v = np.split(x, [q_size, q_size + k_size], -1)
    n, group = len(x), shape.num_heads // shape.num_kv_heads
    q = q.reshape(n, shape.num_heads, shape.head_dim_k)
    k = k.reshape(n, shape.num_kv_heads, shape.head_dim_k)
    if shape.values_from >= 0:
        v = k.reshape(n, -1)[:, shape.values_from : shape.values_from + shape.head_dim_v]
    v = v.reshape(n, shape.num_kv_heads, shape.head_dim_v)
    if shape.norms:
        q = q / np.sqrt((q * q).mean(-1, keepdims=True) + parameters.eps) * parameters.q_norm
        k = k / np.sqrt((k * k).mean(-1, keepdims=True) + parameters.eps) * parameters.k_norm
    q, k = turn(q, shape), turn(k, shape)
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    q = q * shape.scale
    if bf16:
        q, k, v = rounded(q), rounded(k), rounded(v)
    scores = np.einsum("qhd,khd->hqk", q, k)
    if shape.soft_cap:
        scores = shape.soft_cap * np.tanh(scores / shape.soft_cap)
    query, key = np.arange(n)[:, None], np.arange(n)[None]
    if shape.slopes:
        scores = scores + parameters.slopes[:, None, None] * (key - query)
    seen = (key <= query) & ((key > query - shape.window) if shape.window else True)
    if shape.chunk:
        seen &= key >= query // shape.chunk * shape.chunk
    scores = np.where(seen, scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - highest)
    sinks = np.exp(parameters.sinks[:, None, None] - highest) if shape.sinks else 0.0
    weights /= weights.sum(-1, keepdims=True) + sinks
    spread = np.einsum("hqk,khd->qhd", weights, np.abs(v))
    return np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1), spread.reshape(n, -1)
