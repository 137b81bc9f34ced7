"""The two sources that pages read, with the parts that every family says alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from octavo_models.description import Description
from octavo_models.errors import InvalidConfigError, UnsupportedModelError
from octavo_models.fields import MOST_LAYERS, Fields
from octavo_models.names import GGUF
from octavo_models.rotary import longest_from_gguf, longest_from_hf
from octavo_models.spec import Activation, Attention, Layer, Norm, Rotary

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


@dataclass(frozen=True, slots=True)
class Heads:
    """How many heads, and of what size; K and V heads are alike in every family described so far."""

    num: int
    num_kv: int
    dim: int

    def attention(self, rotary: Rotary | None, **details: object) -> Attention:
        """Plain attention with the usual scale; `details` are fields of `Attention`."""
        plain = Attention(self.num, self.num_kv, self.dim, self.dim, 1 / math.sqrt(self.dim), rotary)
        return replace(plain, **details)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class HfSource:
    """A Hugging Face config, and the dtype that the model will run in (some constants are rounded to it)."""

    config: Fields
    dtype: str

    def heads(self, default_dim: int | None = None) -> Heads:
        c = self.config
        num = c.integer("num_attention_heads")
        num_kv = c.integer("num_key_value_heads", num)
        if num % num_kv:
            raise c.error("num_key_value_heads", f"is {num_kv}, which does not divide num_attention_heads, {num}")
        hidden = c.integer("hidden_size")
        if default_dim is None and not c.has("head_dim"):
            if hidden % num:
                raise c.error("hidden_size", f"is {hidden}, which num_attention_heads, {num}, does not divide")
            default_dim = hidden // num
        return Heads(num, num_kv, _even(c, "head_dim", c.integer("head_dim", default_dim)))

    def num_layers(self) -> int:
        return self.config.integer("num_hidden_layers", maximum=MOST_LAYERS)

    def activation(self, name: str = "hidden_act", default: str = "silu") -> Activation:
        value = self.config.text(name, default)
        if value not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UnsupportedModelError(f"{name} is {value!r}; supported activations are {known}")
        return ACTIVATIONS[value]

    def layer_types(self, default: Sequence[str]) -> Sequence[str]:
        """ "full_attention" or "sliding_attention" for each layer."""
        types = self.config.sequence("layer_types", len(default))
        if types is None:
            return default
        for kind in types:
            if kind not in {"full_attention", "sliding_attention"}:
                raise UnsupportedModelError(
                    f"layer_types names {kind!r}; supported are full_attention and sliding_attention"
                )
        return types

    def description(self, layers: Sequence[Layer], norm: Norm, names: Mapping[str, str], tied: bool) -> Description:
        c = self.config
        return Description(
            architecture="",
            vocab_size=c.integer("vocab_size"),
            hidden_size=c.integer("hidden_size"),
            layers=tuple(layers),
            final_norm=norm,
            max_position=longest_from_hf(c),
            tied_head=c.boolean("tie_word_embeddings", tied),
            names=names,
        )


@dataclass(frozen=True, slots=True)
class GgufSource:
    """GGUF metadata (read under the architecture's prefix), the file's tensors, and its rotary factors."""

    metadata: Fields
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    rope_factors: Sequence[float] | None

    def heads(self) -> Heads:
        m = self.metadata
        num = m.integer("attention.head_count")
        num_kv = m.integer("attention.head_count_kv", num)
        if num % num_kv:
            raise m.error("attention.head_count_kv", f"is {num_kv}, which does not divide attention.head_count, {num}")
        hidden = m.integer("embedding_length")
        if not m.has("attention.key_length") and hidden % num:
            raise m.error("embedding_length", f"is {hidden}, which attention.head_count, {num}, does not divide")
        dim = _even(m, "attention.key_length", m.integer("attention.key_length", hidden // num or None))
        if m.integer("attention.value_length", dim) != dim:
            raise UnsupportedModelError("attention.value_length differs from attention.key_length: not supported")
        return Heads(num, num_kv, dim)

    def num_layers(self) -> int:
        return self.metadata.integer("block_count", maximum=MOST_LAYERS)

    def norm(self) -> Norm:
        return Norm(eps=self.metadata.number("attention.layer_norm_rms_epsilon"))

    def has_bias(self, last: str) -> bool:
        """Whether the first layer has this bias; the others must then have it too."""
        return GGUF[f"{last}_bias"].replace("{i}", "0") in self.tensors

    def description(self, layers: Sequence[Layer], *, permuted: bool = False) -> Description:
        m = self.metadata
        if m.integer("expert_count", 0, minimum=0):
            raise UnsupportedModelError(f"{m.prefix}expert_count: mixtures of experts are not supported")
        source = GGUF["embedding"]
        if source not in self.tensors:
            raise InvalidConfigError(f"tensor {source} is missing")
        shape = self.tensors[source][1]
        hidden = m.integer("embedding_length")
        if len(shape) != 2 or shape[1] != hidden:
            raise m.error("embedding_length", f"is {hidden}, but {source} has the shape {list(shape)}")
        return Description(
            architecture="",
            vocab_size=shape[0],
            hidden_size=hidden,
            layers=tuple(layers),
            final_norm=self.norm(),
            max_position=longest_from_gguf(m),
            tied_head=GGUF["head"] not in self.tensors,
            names=GGUF,
            permuted=permuted,
        )


def _even(fields: Fields, name: str, value: int) -> int:
    if value % 2:
        raise fields.error(name, f"is {value}; a head's size must be even, for rotary pairs")
    return value
