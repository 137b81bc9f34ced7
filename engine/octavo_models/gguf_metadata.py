"""GGUF metadata as architectures read it: the keys that most of them share, each checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from octavo_models.errors import MismatchError, UnsupportedModelError
from octavo_models.fields import MOST_HEADS, MOST_LAYERS, Fields
from octavo_models.heads import Heads, even
from octavo_models.layers import Experts, Layer, Norm
from octavo_models.rotary import longest_from_gguf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import LayerWeight, TensorMap


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """GGUF metadata (read under the architecture's prefix), the file's tensors, and its rotary factors."""

    fields: Fields
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    rope_factors: Sequence[float] | None

    def heads(self) -> Heads:
        m = self.fields
        num = m.integer("attention.head_count", maximum=MOST_HEADS)
        num_kv = m.integer("attention.head_count_kv", num)
        if num % num_kv:
            raise m.error("attention.head_count_kv", f"is {num_kv}, which does not divide attention.head_count, {num}")
        hidden = m.integer("embedding_length")
        if not m.has("attention.key_length") and hidden % num:
            raise m.error("embedding_length", f"is {hidden}, which attention.head_count, {num}, does not divide")
        dim = even(m, "attention.key_length", m.integer("attention.key_length", hidden // num or None))
        if m.integer("attention.value_length", dim) != dim:
            raise UnsupportedModelError("attention.value_length differs from attention.key_length: not supported")
        return Heads(num, num_kv, dim)

    def num_layers(self) -> int:
        return self.fields.integer("block_count", maximum=MOST_LAYERS)

    def norm(self) -> Norm:
        return Norm(eps=self.fields.number("attention.layer_norm_rms_epsilon"))

    def layer_norm(self) -> Norm:
        """LayerNorm, with a bias if the file has one of the final norm."""
        eps = self.fields.number("attention.layer_norm_epsilon")
        return Norm("layer", eps, bias="output_norm.bias" in self.tensors)

    def packed_if_stored(self, tensors: TensorMap, heads: Heads) -> TensorMap:
        """`tensors` with q, k and v in one tensor, if the file has that: which one is up to its converter's version."""
        return tensors.updated(heads.packed("attn_qkv")) if "blk.0.attn_qkv.weight" in self.tensors else tensors

    def has(self, name: LayerWeight, tensors: TensorMap) -> bool:
        """True if the first layer has this weight; the others must then have it too."""
        return tensors.sources(name, 0)[0].tensor in self.tensors

    def has_bias(self, name: LayerWeight, tensors: TensorMap) -> bool:
        """True if the first layer has this weight's bias; the others must then have it too."""
        return tensors.sources(f"{name}_bias", 0)[0].tensor in self.tensors

    def draft(self, layers: Sequence[Layer], tensors: TensorMap, norm: Norm | None = None) -> SpecDraft:
        """The decoder of `layers`, its vocabulary by the embedding's shape. `norm` is the final one: else RMSNorm."""
        m = self.fields
        if m.integer("expert_count", 0, minimum=0) and not any(isinstance(layer.mlp, Experts) for layer in layers):
            raise UnsupportedModelError(f"{m.prefix}expert_count: mixtures of experts are not supported")
        embedding, head = (tensors.sources(name, None)[0].tensor for name in ("embedding", "head"))
        if embedding not in self.tensors:
            raise MismatchError(f"tensor {embedding} is missing")
        shape = self.tensors[embedding][1]
        hidden = m.integer("embedding_length")
        if len(shape) != 2 or shape[1] != hidden:
            raise m.error("embedding_length", f"is {hidden}, but {embedding} has the shape {list(shape)}")
        return SpecDraft(
            vocab_size=shape[0],
            hidden_size=hidden,
            layers=tuple(layers),
            final_norm=norm or self.norm(),
            max_position=longest_from_gguf(m),
            tied_head=head not in self.tensors,
            tensors=tensors,
        )
