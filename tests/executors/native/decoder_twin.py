"""A whole decoder in plain numpy, float64, from its `ModelSpec`: what the native executor's logits are compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from octavo_models.layers import Activation, Attention, Experts, Layer, Mlp, Norm, Rotary
from octavo_models.spec import ModelSpec

Array = Any  # float64
Weights = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ACTIVATIONS = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
}


def xielu(x: Array, positive: float, negative: float) -> Array:
    """`positive` and `negative` are as stored, before softplus."""
    above, below = math.log1p(math.exp(positive)), 0.5 + math.log1p(math.exp(negative))
    return np.where(x > 0, above * x * x, (np.expm1(np.minimum(x, -1e-6)) - x) * below) + 0.5 * x


class Twin:
    """Logits of whole sequences. `weights` are named as in the spec."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self.spec = spec
        self.weights = {name: w.astype(np.float64) for name, w in weights.items()}
        self.read: dict[str, tuple[Array, Array]] = {}  # a layer's keys and values, for those that read them too

    def logits(self, tokens: list[int]) -> Array:
        """[tokens, vocab]."""
        spec, w = self.spec, self.weights
        x = w["embedding"][tokens] * spec.embedding_multiplier
        if spec.projected_embedding is not None:
            x = x @ w["project_in"].T
        if spec.positions is not None:
            x = x + w["positions"][np.arange(len(tokens)) + spec.positions.offset]
        x = self.norm(x, spec.embedding_norm, "embedding_norm")
        for i, layer in enumerate(spec.layers):
            x = self.layer(x, layer, f"layers.{i}.")
        x = self.norm(x, spec.final_norm, "final_norm")
        if spec.projected_embedding is not None:
            x = x @ w["project_out"].T
        logits = x @ w["embedding" if spec.tied_head else "head"].T
        if spec.head_bias:
            logits = logits + w["head_bias"]
        return logits * spec.logits_multiplier

    def norm(self, x: Array, norm: Norm | None, name: str) -> Array:
        if norm is None:
            return x
        if norm.kind == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps)
        if not norm.weight:
            return x
        x = x * (self.weights[name] + norm.offset)
        return x + self.weights[f"{name}_bias"] if norm.bias else x

    def layer(self, x: Array, layer: Layer, at: str) -> Array:
        factor = self.spec.residual_multiplier

        def added(to: Array, half: Array, norm: Norm | None, name: str) -> Array:
            if layer.post_norms_sum:
                return self.norm(to + factor * half, norm, at + name)
            return to + factor * self.norm(half, norm, at + name)

        half = self.attention(self.norm(x, layer.pre_attention_norm, f"{at}pre_attention_norm"), layer.attention, at)
        after = added(x, half, layer.post_attention_norm, "post_attention_norm")
        if not layer.parallel_residual:
            inner = self.norm(after, layer.pre_mlp_norm, f"{at}pre_mlp_norm")
        elif layer.pre_mlp_norm is None:
            inner = self.norm(x, layer.pre_attention_norm, f"{at}pre_attention_norm")
        else:
            inner = self.norm(x, layer.pre_mlp_norm, f"{at}pre_mlp_norm")
        half = self.experts(inner, layer.mlp, at) if isinstance(layer.mlp, Experts) else self.mlp(inner, layer.mlp, at)
        return added(after, half, layer.post_mlp_norm, "post_mlp_norm")

    def linear(self, x: Array, name: str, rows: slice = slice(None)) -> Array:
        y = x @ self.weights[name][rows].T
        return y + self.weights[f"{name}_bias"][rows] if f"{name}_bias" in self.weights else y

    def latent_heads(self, x: Array, a: Attention, at: str) -> tuple[Array, Array, Array]:
        """Each head's own query, key and value: [tokens, heads, elements]."""
        n, latent = len(x), a.latent
        assert latent is not None
        assert a.rotary is not None
        nope = a.head_dim_k - latent.rotary_dim
        low = x
        if latent.q_rank is not None:
            low = self.norm(self.linear(x, f"{at}q_a"), latent.norm, f"{at}q_a_norm")
        q = self.linear(low, f"{at}q" if latent.q_rank is None else f"{at}q_b").reshape(n, a.num_heads, -1)
        c, key = np.split(self.linear(x, f"{at}kv_a"), [latent.rank], -1)
        c, key = self.norm(c, latent.norm, f"{at}kv_a_norm"), turned(key[:, None], a.rotary)
        q = np.concatenate((q[..., :nope], turned(q[..., nope:], a.rotary)), -1)
        own = np.einsum("hri,tr->thi", self.weights[f"{at}k_b"].reshape(a.num_heads, latent.rank, nope), c)
        k = np.concatenate((own, np.broadcast_to(key, (n, a.num_heads, latent.rotary_dim))), -1)
        return q, k, np.einsum("hvr,tr->thv", self.weights[f"{at}v_b"].reshape(a.num_heads, -1, latent.rank), c)

    def heads(self, x: Array, a: Attention, at: str) -> tuple[Array, Array, Array]:
        n = len(x)
        group = a.num_heads // a.num_kv_heads
        if a.kv_from_layer is not None:
            q = self.qk_norm(self.linear(x, f"{at}q"), a, f"{at}q_norm").reshape(n, a.num_heads, -1)
            k, v = self.read[f"layers.{a.kv_from_layer}."]
            return q if a.rotary is None else turned(q, a.rotary), np.repeat(k, group, 1), np.repeat(v, group, 1)
        q, k, v = (self.linear(x, at + name) for name in ("q", "k", "v"))
        if a.qkv_clip is not None:
            q, k, v = (np.clip(y, -a.qkv_clip, a.qkv_clip) for y in (q, k, v))
        if not a.qk_norm_after_rotary:
            q, k = self.qk_norm(q, a, f"{at}q_norm"), self.qk_norm(k, a, f"{at}k_norm")
        if a.rotary is not None:
            q, k = (turned(y.reshape(n, -1, a.head_dim_k), a.rotary).reshape(n, -1) for y in (q, k))
        if a.qk_norm_after_rotary:
            q, k = self.qk_norm(q, a, f"{at}q_norm"), self.qk_norm(k, a, f"{at}k_norm")
        k, v = (y.reshape(n, a.num_kv_heads, -1) for y in (k, v))
        v = self.norm(v, a.v_norm, "")
        self.read[at] = k, v
        return q.reshape(n, a.num_heads, -1), np.repeat(k, group, 1), np.repeat(v, group, 1)

    def attention(self, x: Array, a: Attention, at: str) -> Array:
        n = len(x)
        q, k, v = self.heads(x, a, at) if a.latent is None else self.latent_heads(x, a, at)
        if a.query_scaling is not None:
            s = a.query_scaling
            q = q * (1 + s.beta * np.log(1 + (np.arange(n) + s.offset) // s.period))[:, None, None]
        scores = a.scale * np.einsum("qhd,khd->hqk", q, k)
        if a.soft_cap is not None:
            scores = a.soft_cap * np.tanh(scores / a.soft_cap)
        query, key = np.arange(n)[:, None], np.arange(n)[None]
        if a.alibi_slopes:
            scores = scores + np.array(a.alibi_slopes)[:, None, None] * (key - query)
        seen = key <= query
        if a.window is not None:
            seen &= key > query - a.window
        if a.chunk is not None:
            seen &= key >= query // a.chunk * a.chunk
        scores = np.where(seen, scores, -np.inf)
        if a.sinks:
            sinks = np.broadcast_to(self.weights[f"{at}sinks"][:, None, None], (a.num_heads, n, 1))
            weights = softmax(np.concatenate([scores, sinks], -1))[..., :-1]
        else:
            weights = softmax(scores)
        out = np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)
        if a.output_gate:
            out = out * sigmoid(self.linear(x, f"{at}output_gate"))
        return self.linear(out, f"{at}o")

    def qk_norm(self, x: Array, a: Attention, name: str) -> Array:
        if a.qk_norm is None or a.qk_norm_span == "width":
            return self.norm(x, a.qk_norm, name)
        heads = x.reshape(len(x), -1, a.head_dim_k)
        if a.qk_norm_span == "head":
            return self.norm(heads, a.qk_norm, name).reshape(x.shape)
        plain = Norm(a.qk_norm.kind, a.qk_norm.eps, weight=False)
        x = self.norm(heads, plain, "").reshape(x.shape) * (self.weights[name] + a.qk_norm.offset)
        return x + self.weights[f"{name}_bias"] if a.qk_norm.bias else x

    def mlp(self, x: Array, mlp: Mlp, at: str, expert: int = 0) -> Array:
        inner, outer = mlp.intermediate_size, self.spec.hidden_size
        rows = slice(expert * inner, (expert + 1) * inner)
        up = self.linear(x, f"{at}up", rows)
        act = self.activated(up if not mlp.gated else self.linear(x, f"{at}gate", rows), mlp.activation, at)
        if mlp.activation == "swiglu_clamped":
            up = np.clip(up, -7, 7) + 1
        return self.linear(act * up if mlp.gated else act, f"{at}down", slice(expert * outer, (expert + 1) * outer))

    def activated(self, x: Array, kind: Activation, at: str) -> Array:
        if kind == "xielu":
            return xielu(x, *(float(self.weights[f"{at}xielu_{name}"][0]) for name in ("positive", "negative")))
        if kind == "swiglu_clamped":
            return ACTIVATIONS["quick_gelu"](np.minimum(x, 7))
        return ACTIVATIONS[kind](x)

    def experts(self, x: Array, experts: Experts, at: str) -> Array:
        out = np.zeros_like(x)
        for row, (chosen, weights) in enumerate(self.routes(x, experts, at)):
            for expert, weight in zip(chosen, weights, strict=True):
                input_factor, factor = (weight, 1.0) if experts.router.weighs_input else (1.0, weight)
                out[row] += factor * self.mlp(x[row] * input_factor, experts.expert, f"{at}experts_", expert)
        if experts.shared is not None:
            shared = self.mlp(x, experts.shared, f"{at}shared_")
            out += shared * (sigmoid(x @ self.weights[f"{at}shared_router"].T) if experts.shared_gate else 1.0)
        return out

    def routes(self, x: Array, experts: Experts, at: str) -> list[tuple[list[int], list[float]]]:
        """The chosen experts of each row, and their weights."""
        router, logits = experts.router, self.linear(x, f"{at}router")
        if router.scoring == "sparse_mixer":
            return [sparse_mixer(row, experts.num_experts_per_token, router.jitter) for row in logits]
        scores = {"softmax": softmax, "sigmoid": sigmoid, "softmax_of_chosen": lambda s: s}[router.scoring](logits)
        worth = scores + self.weights[f"{at}router_correction"] if router.correction else scores
        routes = []
        for row, choice in zip(scores, worth, strict=True):
            groups = choice.reshape(router.num_groups, -1)
            value = np.sort(groups, -1)[:, -2:].sum(-1) if router.group_by == "top2" else groups.max(-1)
            best = np.argsort(-value, kind="stable")[: router.top_groups]
            allowed = np.full_like(groups, -np.inf)
            allowed[best] = groups[best]
            chosen = np.argsort(-allowed.reshape(-1), kind="stable")[: experts.num_experts_per_token]
            weights = row[chosen]
            if router.scoring == "softmax_of_chosen":
                weights = softmax(weights)
            elif router.renormalize:
                weights = weights / weights.sum()
            routes.append((chosen.tolist(), (weights * router.scale).tolist()))
        return routes


def sparse_mixer(logits: Array, count: int, jitter: float) -> tuple[list[int], list[float]]:
    """Phi-3.5-MoE's choice: one after another, each weighed by the softmax of what is close to the largest left."""
    chosen: list[int] = []
    weights: list[float] = []
    left = logits.copy()
    for _ in range(count):
        best = int(left.argmax())
        far = (left[best] - logits) / np.maximum(np.abs(logits), left[best]) > 2 * jitter
        chosen.append(best)
        weights.append(float(softmax(np.where(far, -np.inf, left))[best]))
        left[best] = -np.inf
    return chosen, weights


def turned(x: Array, rotary: Rotary) -> Array:
    """x: [tokens, heads, head_dim], token i at position i."""
    half = rotary.dim // 2
    angles = np.arange(len(x))[:, None] * np.array(rotary.inverse_frequencies())[None]
    cos, sin = (f(angles)[:, None] * rotary.attention_factor() for f in (np.cos, np.sin))
    out = x.copy()
    first = np.s_[..., 0 : 2 * half : 2] if rotary.interleaved else np.s_[..., :half]
    second = np.s_[..., 1 : 2 * half : 2] if rotary.interleaved else np.s_[..., half : 2 * half]
    a, b = x[first], x[second]
    out[first], out[second] = a * cos - b * sin, b * cos + a * sin
    return out
