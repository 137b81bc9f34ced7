"""The vocabulary of a decoder's layers: rotary embedding, norm, attention, MLP and mixture of experts, as frozen data.

Every executor computes a layer from these types alone. Independent of weights, files, devices and batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from octavo_models.errors import UnsupportedModelError

Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "xielu", "swiglu_clamped"]


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """The stretch of a model's rotary frequencies beyond the length it was trained on.

    Fields that a kind does not use keep their defaults. Kinds and names are Hugging Face's `rope_scaling`.
    """

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    factors: tuple[float, ...] = ()  # longrope: one divisor for each frequency
    truncate: bool = True  # yarn: the ramp begins and ends at whole dimensions


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding over the first `dim` elements of a head.

    `interleaved` pairs elements (2i, 2i+1), as GPT-J does; otherwise (i, i + dim/2), as Llama's checkpoints on
    Hugging Face do. GGUF files of the Llama family store permuted rows; their weights carry an `Unpermute`,
    so that executors see one convention. A `reversed` one turns the other way (nanochat): its angles are negative.
    """

    dim: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RotaryScaling | None = None
    reversed: bool = False
    num_turned: int | None = None  # pairs that turn at all, the first ones (Gemma 4); None: all

    def inverse_frequencies(self) -> tuple[float, ...]:
        """The dim/2 angles by which one position turns each pair, scaling included."""
        frequencies = self._scaled_frequencies()
        if self.num_turned is not None:
            frequencies = (*frequencies[: self.num_turned], *[0.0] * (len(frequencies) - self.num_turned))
        return tuple(-f for f in frequencies) if self.reversed else frequencies

    def _scaled_frequencies(self) -> tuple[float, ...]:
        base = [self.theta ** (-2 * i / self.dim) for i in range(self.dim // 2)]
        s = self.scaling
        if s is None:
            return tuple(base)
        match s.kind:
            case "linear":
                return tuple(f / s.factor for f in base)
            case "llama3":
                return tuple(self._llama3(f, s) for f in base)
            case "yarn":
                return tuple(self._yarn(i, f, s) for i, f in enumerate(base))
            case "longrope":
                if len(s.factors) != len(base):
                    raise UnsupportedModelError(
                        f"rope_scaling: {len(s.factors)} factors for {len(base)} rotary frequencies"
                    )
                return tuple(f / divisor for f, divisor in zip(base, s.factors, strict=True))

    def attention_factor(self) -> float:
        """The factor on cos and sin (yarn and longrope scale attention's temperature through it)."""
        s = self.scaling
        if s is None or s.kind not in {"yarn", "longrope"}:
            return 1.0
        if s.attention_factor is not None:
            return s.attention_factor
        if s.factor <= 1.0:
            return 1.0
        if s.kind == "yarn":
            return 0.1 * math.log(s.factor) + 1.0
        return math.sqrt(1 + math.log(s.factor) / math.log(s.original_max_position))

    @staticmethod
    def _llama3(freq: float, s: RotaryScaling) -> float:
        wavelength = 2 * math.pi / freq
        low, high = s.original_max_position / s.low_freq_factor, s.original_max_position / s.high_freq_factor
        if wavelength > low:
            return freq / s.factor
        if wavelength <= high:
            return freq
        smooth = (s.original_max_position / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        return (1 - smooth) * freq / s.factor + smooth * freq

    def _yarn(self, i: int, freq: float, s: RotaryScaling) -> float:
        def dim_of(rotations: float) -> float:
            ratio = s.original_max_position / (rotations * 2 * math.pi)
            return self.dim * math.log(ratio) / (2 * math.log(self.theta))

        first, last = dim_of(s.beta_fast), dim_of(s.beta_slow)
        if s.truncate:
            first, last = math.floor(first), math.ceil(last)
        low, high = max(first, 0), min(last, self.dim - 1)
        ramp = min(max((i - low) / max(high - low, 0.001), 0.0), 1.0)
        return freq / s.factor * ramp + freq * (1 - ramp)


@dataclass(frozen=True, slots=True)
class Norm:
    """`x / rms(x) * (weight + offset) + bias`, or LayerNorm. Gemma's checkpoints store weight minus 1: offset 1."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    offset: float = 0.0
    bias: bool = False
    weight: bool = True  # False: normalizes alone (OLMo 1, Llama 4's q and k)


@dataclass(frozen=True, slots=True)
class QueryScaling:
    """A factor on the query at position p: `1 + beta * log(1 + floor((p + offset) / period))` (Llama 4, Ministral 3)."""

    beta: float
    period: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek V2, arXiv 2405.04434): all heads' keys and values come of one vector a token.

    With c = norm(kv_a x) of `rank` elements, head h has the value `v_b[h] c` and the key `[k_b[h] c, turned(r)]`; r, of
    `rotary_dim` elements, follows c in the product kv_a and is shared by all heads. Blocks keep [c, turned(r)] alone.
    A query is `q_b norm(q_a x)` with a `q_rank`, else `q x`; the last `rotary_dim` elements of each head are turned.
    """

    rank: int
    rotary_dim: int
    q_rank: int | None = None
    norm: Norm = Norm()  # of both c and the query's vector of `q_rank`
    bias: bool = False  # of q_a and kv_a

    @property
    def width(self) -> int:
        """Elements that a token has in the blocks of a layer."""
        return self.rank + self.rotary_dim


QkNormSpan = Literal["head", "each_head", "width"]


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention. Scores are `scale * q·k`, capped by `soft_cap * tanh(s / soft_cap)` where given.

    `window` counts the query's own token: position p sees (p - window, p]. With a `chunk` it sees the positions of its
    own chunk up to itself: [p // chunk * chunk, p]. Where it is not `causal`, position p sees the whole sequence, or
    with a window (p - window, p + window).

    Order of what is optional: clip, norm, rotary (norm last with `qk_norm_after_rotary`), query scaling.
    """

    num_heads: int
    num_kv_heads: int
    head_dim_k: int
    head_dim_v: int
    scale: float
    rotary: Rotary | None
    window: int | None = None
    chunk: int | None = None
    soft_cap: float | None = None
    alibi_slopes: tuple[float, ...] = ()  # of each query head; `slope * (p_k - p_q)` is added to a score
    qk_norm: Norm | None = None
    qk_norm_span: QkNormSpan = "head"
    """The span that a norm of q or k normalizes: "head" each head by one weight [head_dim_k]; "each_head" each head by
    its
    own weight [num_heads, head_dim_k]; "width" all heads together by a weight [num_heads * head_dim_k]."""
    qk_norm_after_rotary: bool = False
    qkv_clip: float | None = None  # q, k and v lie within ±qkv_clip after their biases
    query_scaling: QueryScaling | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    output_gate: bool = False  # the result is multiplied by sigmoid(g); g: [num_heads * head_dim_v], a product like q
    sinks: bool = False  # a logit a head that takes part in the softmax and has no value (gpt-oss)
    values_are_keys: bool = False  # v is the same product as k, before its norm (Gemma 4's global layers)
    v_norm: Norm | None = None  # of each head's values, without weights
    kv_from_layer: int | None = None  # it reads what that earlier layer has written, and has no keys of its own
    latent: Latent | None = None  # one KV head; `head_dim_k` includes the part that rotates
    causal: bool = True  # False: attention in both directions (encoders)

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim_k

    @property
    def own_kv_heads(self) -> int:
        """The KV heads whose keys and values this layer computes."""
        return self.num_kv_heads if self.kv_from_layer is None else 0

    @property
    def k_size(self) -> int:
        """Elements of a token's keys; of a latent, which serves as keys and values, all of it."""
        return self.own_kv_heads * self.head_dim_k if self.latent is None else self.latent.width

    @property
    def v_size(self) -> int:
        return self.own_kv_heads * self.head_dim_v if self.latent is None else 0

    @property
    def o_size(self) -> int:
        return self.num_heads * self.head_dim_v

    @property
    def absorbed(self) -> Attention:
        """The attention that reads the blocks. A latent's queries have taken in `k_b`, and its result is still to
        multiply with

        The one KV head's keys are the latent and the shared key, [rank + rotary_dim]; their first `rank` are its values.
        """
        if self.latent is None:
            return self
        return replace(self, head_dim_k=self.latent.width, head_dim_v=self.latent.rank)


@dataclass(frozen=True, slots=True)
class Mlp:
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where not gated. `down_bias` is a bias of `down` alone.

    With a `cutoff`, the gate becomes `relu(gate - mean - cutoff * deviation)` before it is activated, both over all of a
    token's elements (Gemma 3n).

    Activations beyond the usual ones: `xielu` (Apertus) has two learned numbers a layer, `swiglu_clamped` (gpt-oss) is
    `(clamp(up, -7, 7) + 1) * g * sigmoid(1.702 g)` with g = min(gate, 7), and always gated.
    """

    intermediate_size: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    down_bias: bool = False
    cutoff: float | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that tensor parallelism divides."""
        return (self.intermediate_size,)


@dataclass(frozen=True, slots=True)
class Router:
    """The choice of experts for a token, and their weights: `scores = scoring(router(x) + bias)`.

    The chosen ones have the largest scores, with `correction` the largest `scores + correction`. With groups, only
    experts of the `top_groups` best of `num_groups` equal groups can be chosen; a group's worth is the sum of its two
    largest (`group_by` "top2") or its largest. Weights are the chosen ones' scores without correction; `renormalize`
    divides them by their sum; `scale` multiplies them.

    `softmax_of_chosen` chooses by the logits and takes the softmax of the chosen ones alone. `sparse_mixer` is
    Phi-3.5-MoE's (in inference: each choice by a softmax over what is within `jitter` of the largest).
    """

    scoring: Literal["softmax", "sigmoid", "softmax_of_chosen", "sparse_mixer"] = "softmax"
    renormalize: bool = True
    bias: bool = False
    correction: bool = False
    num_groups: int = 1
    top_groups: int = 1
    group_by: Literal["top2", "max"] = "top2"
    scale: float = 1.0
    jitter: float = 0.01
    logits_multiplier: float = 1.0  # of the product, before all else
    expert_scales: bool = False  # each expert's weight is multiplied by a learned number of its own, last
    weighs_input: bool = False  # the weight multiplies an expert's input, not its output (Llama 4)


@dataclass(frozen=True, slots=True)
class BesideMlp:
    """The norms of a mixture beside an MLP, its shared expert, which alone reads what the layer has normed (Gemma 4).

    Router and experts norm the residual stream themselves: `after_shared(shared(x)) + after(sum(experts(before(stream))))`.
    """

    router: Norm
    before: Norm
    after: Norm
    after_shared: Norm


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of an MLP: `sum(weight * expert(x))` over the chosen ones, plus the shared expert."""

    num_experts: int
    num_experts_per_token: int
    expert: Mlp
    router: Router = Router()
    shared: Mlp | None = None
    shared_gate: bool = False  # the shared expert's result is multiplied by sigmoid of a product with one row (Qwen 2)
    beside: BesideMlp | None = None
    held: tuple[int, int] | None = None
    """The experts that a rank of several has, first and last + 1; the sum is over these alone. None: all."""

    @property
    def first_held(self) -> int:
        return 0 if self.held is None else self.held[0]

    @property
    def num_held(self) -> int:
        return self.num_experts if self.held is None else self.held[1] - self.held[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that tensor parallelism divides."""
        return (self.expert.intermediate_size, *(self.shared.widths if self.shared is not None else ()))


@dataclass(frozen=True, slots=True)
class PerLayerInput:
    """A token's own input of one layer, which the layer takes in last: `x + norm(out(act(gate(x)) * p))` (Gemma 3n and 4).

    p, of `size` elements, is the layer's part of what `ModelSpec.per_layer_embedding` makes.
    """

    size: int
    activation: Activation
    norm: Norm


@dataclass(frozen=True, slots=True)
class AltUp:
    """Alternating updates (arXiv 2301.13310): of `num` residual streams x_i a layer computes one, the first (Gemma 3n).

    With m(x) = tanh(router(norm(x)) / hidden_size), the layer makes y out of the first of
    p_i = x_i + sum_j (prediction m(x_0))_ij x_j; the streams are then p_i + (y - p_0) (1 + (correction m(y))_i).
    What a per-layer input adds is computed of the first stream times `scale`, and added to all others.
    """

    num: int
    norm: Norm


@dataclass(frozen=True, slots=True)
class Laurel:
    """A learned augmented residual (arXiv 2411.07501): with h, what attention reads, the residual stream before the MLP is
    `(x + attention(h) + h + norm(right(left(h)))) / sqrt(2)`, where left has `rank` rows.
    """

    rank: int
    norm: Norm


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. A norm that is None is absent; `parallel_residual` feeds both halves the same input.

    Post-norms apply to a half's output before the residual is added; with `post_norms_sum` to the sum, which becomes
    the residual stream (the original transformer: BERT, OPT-350M).
    """

    attention: Attention
    mlp: Mlp | Experts
    pre_attention_norm: Norm | None
    post_attention_norm: Norm | None
    pre_mlp_norm: Norm | None
    post_mlp_norm: Norm | None
    parallel_residual: bool = False
    post_norms_sum: bool = False
    laurel: Laurel | None = None
    altup: AltUp | None = None
    per_layer: PerLayerInput | None = None
    scaled: bool = False  # the residual stream is multiplied by a learned number at the end (Gemma 4)
