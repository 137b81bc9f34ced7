"""A Hugging Face config as architectures read it: the fields that most of them share, each checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import MOST_HEADS, MOST_LAYERS, Fields
from octavo_models.heads import Heads, even
from octavo_models.layers import Activation, Layer, Norm
from octavo_models.rotary import longest_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


@dataclass(frozen=True, slots=True)
class HfConfig:
    """The config's fields, and the dtype that the model will run in (some constants are rounded to it)."""

    fields: Fields
    dtype: str

    def reading(
        self, names: Mapping[str, Sequence[str]] | None = None, defaults: Mapping[str, Any] | None = None
    ) -> HfConfig:
        """This config for a family with other `names` of fields (`Fields.names`), and `defaults` of absent ones."""
        fields = replace(self.fields, names=names or {})
        absent = {fields.key(name): value for name, value in (defaults or {}).items() if not fields.has(name)}
        return replace(self, fields=replace(fields, values={**fields.values, **absent}))

    def heads(self, default_dim: int | None = None) -> Heads:
        c = self.fields
        num = c.integer("num_attention_heads", maximum=MOST_HEADS)
        num_kv = c.integer("num_key_value_heads", num)
        if num % num_kv:
            problem = f"is {num_kv}, which does not divide {c.key('num_attention_heads')}, {num}"
            raise c.error("num_key_value_heads", problem)
        hidden = c.integer("hidden_size")
        if default_dim is None and not c.has("head_dim"):
            if hidden % num:
                raise c.error(
                    "hidden_size", f"is {hidden}, which {c.key('num_attention_heads')}, {num}, does not divide"
                )
            default_dim = hidden // num
        return Heads(num, num_kv, even(c, "head_dim", c.integer("head_dim", default_dim)))

    def num_layers(self) -> int:
        return self.fields.integer("num_hidden_layers", maximum=MOST_LAYERS)

    def window(self) -> int | None:
        """The sliding window; None where the config has none."""
        return self.fields.integer("sliding_window") if self.fields.has("sliding_window") else None

    def activation(self, name: str = "hidden_act", default: str = "silu") -> Activation:
        value = self.fields.text(name, default)
        if value not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UnsupportedModelError(f"{self.fields.key(name)} is {value!r}; supported activations are {known}")
        return ACTIVATIONS[value]

    def local_layers(self, default: Sequence[bool], kind: str = "sliding") -> Sequence[bool]:
        """True for each layer whose attention is local, of this `kind`; `default` where `layer_types` is absent."""
        types = self.fields.sequence("layer_types", self.num_layers())
        if types is None:
            return default
        full, local = names = ("full_attention", f"{kind}_attention")
        for name in types:
            if name not in names:
                raise UnsupportedModelError(f"layer_types names {name!r}; supported are {full} and {local}")
        return [name == local for name in types]

    def layer_norm(self, name: str, *, bias: bool = True) -> Norm:
        """LayerNorm with the epsilon that the field `name` has."""
        return Norm("layer", self.fields.number(name, 1e-5), bias=bias)

    def refuse(self, name: str, value: object, why: str = "not supported") -> None:
        """Raise UnsupportedModelError if the field has this value, which the description can't express."""
        if self.fields.raw(name) == value:
            raise UnsupportedModelError(f"{self.fields.key(name)} is {value!r}: {why}")

    def draft(
        self, layers: Sequence[Layer], norm: Norm | None, tensors: TensorMap, *, tied_head: bool = False
    ) -> SpecDraft:
        """The decoder of `layers`; `tied_head` is what the architecture assumes where the config is silent."""
        c = self.fields
        return SpecDraft(
            vocab_size=c.integer("vocab_size"),
            hidden_size=c.integer("hidden_size"),
            layers=tuple(layers),
            final_norm=norm,
            max_position=longest_from_hf(c),
            tied_head=c.boolean("tie_word_embeddings", tied_head),
            tensors=tensors,
        )
