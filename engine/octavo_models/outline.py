"""The outline of a decoder that is not described: what the engine needs to know of a model that another library runs.

`ModelSpec` says how a decoder computes; an outline says only how large it is and how its layers attend, by which
tables, KV blocks and lengths are sized. Both have these fields, and `Model` is either.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo_models.layers import Attention
from octavo_models.spec import KVLayout, ModelSpec, kv_layout_of


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """A causal decoder. `attentions` are those of one forward, in the order in which they are computed."""

    architecture: str
    vocab_size: int
    hidden_size: int
    attentions: tuple[Attention, ...]
    max_position: int
    dtype: str  # the checkpoint's own: float32, float16 or bfloat16
    quantization: None = None
    cuts_heads: bool | None = None
    """True if its own plan of tensor parallelism divides attention by its heads; False: the rest alone; None: it has no
    plan."""

    def kv_layout(self, block_size: int, kv_format: str, value_multiple: int = 1) -> KVLayout:
        """The blocks, as `ModelSpec.kv_layout` has them."""
        return kv_layout_of(self.attentions, block_size, kv_format, value_multiple)


Model = ModelSpec | ModelOutline
