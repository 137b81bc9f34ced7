"""The description of a decoder: the `ModelSpec` that the planner and both executors read.

Owns the vocabulary of a decoder (attention, MLP, experts, norms, rotary, weights) and the exact sizes that
follow from it. Independent of files, devices and batches; every type here is frozen data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from octavo_models.errors import UnsupportedModelError
from octavo_models.formats import FORMATS, nbytes
from octavo_models.tensors import Source, Unpermute

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """How a model stretches its rotary frequencies beyond the length it was trained on.

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


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding over the first `dim` elements of a head.

    `interleaved` pairs elements (2i, 2i+1), as GPT-J does; otherwise (i, i + dim/2), as Llama's checkpoints on
    Hugging Face do. GGUF files of the Llama family store permuted rows; their weights carry an `Unpermute`,
    so that executors see one convention.
    """

    dim: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RotaryScaling | None = None

    def inverse_frequencies(self) -> tuple[float, ...]:
        """The dim/2 angles by which one position turns each pair, scaling included."""
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
        if wavelength < high:
            return freq
        smooth = (s.original_max_position / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        return (1 - smooth) * freq / s.factor + smooth * freq

    def _yarn(self, i: int, freq: float, s: RotaryScaling) -> float:
        def dim_of(rotations: float) -> float:
            ratio = s.original_max_position / (rotations * 2 * math.pi)
            return self.dim * math.log(ratio) / (2 * math.log(self.theta))

        low = max(math.floor(dim_of(s.beta_fast)), 0)
        high = min(math.ceil(dim_of(s.beta_slow)), self.dim - 1)
        ramp = min(max((i - low) / max(high - low, 0.001), 0.0), 1.0)
        return freq / s.factor * ramp + freq * (1 - ramp)


@dataclass(frozen=True, slots=True)
class Norm:
    """`x / rms(x) * (weight + offset)`, or LayerNorm. Gemma's checkpoints store weight minus 1: offset 1."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    offset: float = 0.0
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention. Scores are `scale * q·k`, capped by `soft_cap * tanh(s / soft_cap)` where given.

    `window` counts the query's own token: position p sees (p - window, p].
    """

    num_heads: int
    num_kv_heads: int
    head_dim_k: int
    head_dim_v: int
    scale: float
    rotary: Rotary | None
    window: int | None = None
    soft_cap: float | None = None
    alibi: bool = False
    qk_norm: Norm | None = None  # over each head, before rotary
    qkv_bias: bool = False
    o_bias: bool = False
    sinks: bool = False
    kv_from_layer: int | None = None

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim_k

    @property
    def k_size(self) -> int:
        return self.num_kv_heads * self.head_dim_k

    @property
    def v_size(self) -> int:
        return self.num_kv_heads * self.head_dim_v

    @property
    def o_size(self) -> int:
        return self.num_heads * self.head_dim_v


@dataclass(frozen=True, slots=True)
class Mlp:
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where not gated."""

    intermediate_size: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of an MLP. Reserved: no architecture describes one and no executor runs it yet."""

    num_experts: int
    num_experts_per_token: int
    expert: Mlp
    router: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = True
    shared: Mlp | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. A norm that is None is absent; `parallel_residual` feeds both halves the same input."""

    attention: Attention
    mlp: Mlp | Experts
    pre_attention_norm: Norm | None
    post_attention_norm: Norm | None  # on attention's output, before the residual is added (Gemma)
    pre_mlp_norm: Norm | None
    post_mlp_norm: Norm | None
    parallel_residual: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the decoder, and where a checkpoint keeps it.

    `name` is canonical (docs/decisions/0002). `shape` is [out_features, in_features] for a matrix. The rows of all
    `sources` follow one another; `transform` then brings them into the order that executors expect. `format` is a key
    of `FORMATS`: as stored. `shard_axis` is the axis that tensor parallelism cuts; `adapter_target` is the module name
    that LoRA checkpoints use.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    format: str
    transform: Unpermute | None = None
    shard_axis: int | None = None
    adapter_target: str | None = None

    @property
    def first_row(self) -> int | None:
        """Where the weight begins in its only source, if its rows are stored there one after another; else None."""
        (source, *others) = self.sources
        if others or source.transposed or self.transform is not None:
            return None
        if source.rows is None:
            return 0
        return source.rows.first if source.rows.groups == 1 else None

    def fits(self, source: Source, stored: tuple[int, ...]) -> bool:
        """Whether a tensor of the shape `stored` can be `source`, one of this weight's."""
        shape = stored[::-1] if source.transposed else stored
        if source.rows is not None:
            each, left = divmod(shape[0], source.rows.groups)
            return shape[1:] == self.shape[1:] and not left and each >= source.rows.first + source.rows.count
        return shape == self.shape if len(self.sources) == 1 else shape[1:] == self.shape[1:]

    @property
    def layer(self) -> int | None:
        """The number of the layer that it belongs to; None outside of the layers."""
        return int(self.name.split(".")[1]) if self.name.startswith("layers.") else None

    @property
    def nbytes(self) -> int:
        """Bytes as stored in the checkpoint, exactly."""
        return nbytes(self.format, self.shape)


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers whose KV blocks share one block table. `block_bytes` is one block across all layers of the group."""

    kind: Literal["full", "window", "latent", "state"]
    layers: tuple[int, ...]
    block_bytes: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class KVLayout:
    """All that the scheduler needs of a model."""

    block_size: int
    groups: tuple[KVGroup, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole decoder. Built by `octavo_models.from_hf_config` or `from_gguf`."""

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    weights: tuple[Weight, ...]
    max_position: int
    tied_head: bool
    dtype: str  # the checkpoint's own: float32, float16 or bfloat16; quantized files say float32
    quantization: str | None = None  # such as "gguf"; None for plain dtypes
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_soft_cap: float | None = None
    vision_parameters: int = 0  # of a tower that the checkpoint has beside the decoder
    causal: bool = True
    head: Literal["lm", "pool", "classify"] = "lm"

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(w.shape) for w in self.weights)

    def weight_bytes(self, dtype: str | None = None) -> int:
        """Bytes of all weights: as stored, or all of them widened to `dtype` (float32, float16, bfloat16)."""
        if dtype is None:
            return sum(w.nbytes for w in self.weights)
        return sum(nbytes(FORMAT_OF_DTYPE[dtype], w.shape) for w in self.weights)

    def kv_layout(self, block_size: int, kv_format: str) -> KVLayout:
        """Blocks of `block_size` tokens in `kv_format` ("f32", "bf16", "f16" …), one group a kind of attention."""
        element = FORMATS[kv_format].bytes_per_block
        by_window: dict[int | None, list[int]] = {}
        for i, layer in enumerate(self.layers):
            if layer.attention.kv_from_layer is None:
                by_window.setdefault(layer.attention.window, []).append(i)
        groups = []
        for window, members in sorted(by_window.items(), key=lambda item: (item[0] is not None, item[0] or 0)):
            per_token = sum(self.layers[i].attention.k_size + self.layers[i].attention.v_size for i in members)
            kind: Literal["full", "window"] = "full" if window is None else "window"
            groups.append(KVGroup(kind, tuple(members), per_token * block_size * element, window))
        return KVLayout(block_size, tuple(groups))

    def kv_bytes(self, num_tokens: int, kv_format: str, block_size: int = 16) -> int:
        """KV bytes that one sequence of `num_tokens` keeps; window layers keep no more than their window."""
        total = 0
        for group in self.kv_layout(block_size, kv_format).groups:
            kept = num_tokens if group.window is None else min(num_tokens, group.window + block_size)
            total += -(-kept // block_size) * group.block_bytes
        return total


FORMAT_OF_DTYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
