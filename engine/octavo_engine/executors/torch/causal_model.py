"""The interface between the torch executor and the model that it runs: ours, or one that transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from octavo_engine.executors.torch.decoder import DecoderInputs
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.scratch_cache import ScratchCache


class CausalModel(Protocol):
    """Layers over paged keys and values, then logits of some rows. `on_part` is called after parts of a second or so."""

    on_part: Callable[[], None]

    def forward(self, inputs: DecoderInputs, cache: KVCache | ScratchCache) -> Tensor:
        """Run all layers over the step's rows and write their KV. Returns [num_tokens, hidden_size], normed."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size], normed -> [n, vocab], float32."""
