"""A causal language model of `transformers`, divided where the executor divides it: layers, then logits of some rows.

Owns how such a model is called. Its code stays as it is: the head runs with a stand-in for the layers, which returns
the rows it was given, so that multipliers, soft caps and biases of the logits are the model's own.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from octavo_engine.executors.torch.transformers_parallel import local
from octavo_models.errors import UnsupportedModelError


class DividedModel:
    """The two halves of a model. Batches are one row of tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Takes `model` over.

        Raises:
            UnsupportedModelError: its layers and its head can't be separated, or it takes no positions.
        """
        name = model.base_model_prefix if hasattr(model, model.base_model_prefix) else "model"
        layers = getattr(model, name, None)
        if not isinstance(layers, nn.Module):
            raise UnsupportedModelError(f"{type(model).__name__} has no part {name!r} that its head follows")
        if "position_ids" not in inspect.signature(layers.forward).parameters:
            raise UnsupportedModelError(f"{type(layers).__name__} takes no positions")
        held = () if _is_meta(model) else map(local, (*model.parameters(), *model.buffers()))
        self.weights = {t.data_ptr(): t for t in held}  # this rank's
        self.layers = layers
        self._given = _Given()
        setattr(model, name, self._given)
        self._head = model

    def hidden(self, token_ids: Tensor, positions: Tensor | None = None, **fields: Tensor) -> Tensor:
        """token_ids, positions: [n] -> [n, hidden_size]. Without positions the layers count them."""
        if positions is not None:
            fields["position_ids"] = positions[None]
        result = self.layers(input_ids=token_ids[None], use_cache=False, **fields)
        hidden: Tensor = result[0]
        return hidden[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size] -> [n, vocab]."""
        self._given.hidden = hidden[None]
        tokens = torch.zeros(1, hidden.shape[0], dtype=torch.int64, device=hidden.device)
        try:
            logits: Tensor = self._head(input_ids=tokens, use_cache=False).logits
        finally:
            self._given.hidden = None
        return logits[0]

    def use_attention(self, name: str) -> None:
        """Have the layers call the attention registered by that name, with the masks that go with it."""
        self._head.set_attn_implementation(name)
        if isinstance(self.layers, PreTrainedModel):
            self.layers.set_attn_implementation(name)

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.weights.values())


class _Given(nn.Module):
    """Returns the hidden states that it was given, whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    @property
    def decoder(self) -> _Given:
        """Itself: some heads call their model's decoder."""
        return self

    def forward(self, *_: Any, **__: Any) -> _Outputs:
        assert self.hidden is not None, "logits gives it rows"
        return _Outputs((self.hidden,))


class _Outputs(tuple[Tensor, ...]):
    """The outputs of layers as heads read them: the first is the hidden states, and fields beside it are None."""

    __slots__ = ()

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def new_model(config: PreTrainedConfig, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of this configuration with random weights, on torch's default device; `attention` is registered."""
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config, attn_implementation=attention, dtype=dtype)
    model.train(mode=False)
    return model


def _is_meta(model: nn.Module) -> bool:
    return next(model.parameters()).is_meta
