"""The outline of a model that `transformers` runs: each attention that one forward computes, by its shapes and mask.

The model is built on the meta device, without memory, and runs a few tokens with an attention that only takes notes.
Masks are notes too: transformers hands over the rule by which a query sees a key, and the rule is evaluated far along a
sequence. So whatever a model's code does is seen, not guessed from its configuration. Independent of weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.moe import ExpertsInterface
from transformers.masking_utils import AttentionMaskInterface

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ConfigError, ModelLoadError
from octavo_engine.executors.torch.transformers_config import REMEDY, model_class, transformers_config
from octavo_engine.executors.torch.transformers_model import DividedModel, new_model
from octavo_engine.executors.torch.transformers_parallel import cuts_heads
from octavo_models.errors import UnsupportedModelError
from octavo_models.layers import Attention
from octavo_models.outline import ModelOutline
from octavo_models.reading import DTYPE_OF_FORMAT

NAME = "octavo_outline"
NUM_TOKENS = 5
FAR = (1 << 20) + 1  # a query's position that no window reaches back from to the first token
IGNORED = {"position_ids", "cache_position"}  # tensors that attention may be given and does not need


def outline(model: ModelConfig, files: ModelFiles) -> ModelOutline:
    """The outline of the model in `files`.

    Raises:
        ConfigError: neither the model nor a flag says how long its context is.
        ModelLoadError: transformers can't run it here; the message says why.
    """
    config = transformers_config(files)
    text = config.get_text_config(decoder=True)
    longest = getattr(text, "max_position_embeddings", None) or getattr(text, "max_sequence_length", None)
    longest = longest or model.max_model_len
    try:
        found = outline_of(config, longest or 0, _dtype(config, model, files))
    except UnsupportedModelError as error:
        raise ModelLoadError(f"{files.config}: {error}; {REMEDY}") from error
    if not longest:
        raise ConfigError("the model's context length is unknown: give it with --max-model-len")
    return found


def outline_of(config: PreTrainedConfig, max_position: int, dtype: str) -> ModelOutline:
    """The outline of a model of this configuration. Raises UnsupportedModelError."""
    notes = _Notes()
    AttentionInterface.register(NAME, notes.attend)
    AttentionMaskInterface.register(NAME, notes.mask)
    ExpertsInterface.register(NAME, _unmixed)
    name = model_class(config).__name__
    try:
        with torch.device("meta"), torch.inference_mode():
            model = new_model(copy.deepcopy(config), NAME, torch.float32)
            if model._can_set_experts_implementation():  # noqa: SLF001
                model.set_experts_implementation(NAME)
            divided = DividedModel(model)
            tokens = torch.zeros(NUM_TOKENS, dtype=torch.int64)
            # Given a mask, transformers does not look for packed sequences in the positions, which have no values here.
            seen = torch.ones(1, NUM_TOKENS, dtype=torch.int64)
            hidden = divided.hidden(tokens, torch.arange(NUM_TOKENS), attention_mask=seen)
            logits = divided.logits(hidden)
    except UnsupportedModelError:
        raise
    except Exception as error:  # a model's own code, which may fail in any way
        raise UnsupportedModelError(
            f"{name} can't be run without its weights, to see how it attends: {type(error).__name__}: {error}"
        ) from error
    if not notes.attentions:
        raise UnsupportedModelError(f"{name} does not call transformers' attention interface")
    sizes = logits.shape[-1], hidden.shape[-1]
    return ModelOutline(
        name, *sizes, tuple(notes.attentions), max_position, dtype, cuts_heads=cuts_heads(model.tp_plan)
    )


class _Notes:
    """A record of the masks and attentions of one forward."""

    def __init__(self) -> None:
        self.attentions: list[Attention] = []
        self._windows: list[tuple[Tensor, int | None]] = []  # masks that were handed out, and what they mean

    def mask(self, batch_size: int, q_length: int, kv_length: int, mask_function: Rule, **_: Any) -> Tensor:
        mask = torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device="meta")
        self._windows.append((mask, window_of(mask_function)))
        return mask

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **fields: Any,
    ) -> tuple[Tensor, None]:
        """query, key, value: [1, heads, tokens, dim] -> [1, tokens, heads, dim of value]."""
        del dropout
        where = f"{type(module).__name__}, attention {len(self.attentions)},"
        if query.shape[2] != key.shape[2] or key.shape[2] != value.shape[2]:
            raise UnsupportedModelError(f"{where} sees other tokens than those of its layer")
        if query.shape[1] % key.shape[1] or key.shape[1] != value.shape[1]:
            raise UnsupportedModelError(f"{where} has {query.shape[1]} heads over {key.shape[1]} of keys")
        if s_aux is not None and s_aux.numel() != query.shape[1]:
            raise UnsupportedModelError(f"{where} has {s_aux.numel()} sinks for {query.shape[1]} heads")
        extra = sorted(name for name, given in fields.items() if isinstance(given, Tensor) and name not in IGNORED)
        if extra or isinstance(scaling, Tensor):
            raise UnsupportedModelError(f"{where} takes {', '.join(extra) or 'a scale of its own for each query'}")
        self.attentions.append(
            Attention(
                num_heads=query.shape[1],
                num_kv_heads=key.shape[1],
                head_dim_k=query.shape[3],
                head_dim_v=value.shape[3],
                scale=query.shape[3] ** -0.5 if scaling is None else float(scaling),
                rotary=None,
                window=self._window(attention_mask, where),
                soft_cap=softcap,
                sinks=s_aux is not None,
            )
        )
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3]), None

    def _window(self, mask: Tensor | None, where: str) -> int | None:
        for known, window in self._windows:
            if mask is known:
                return window
        raise UnsupportedModelError(f"{where} has a mask of its own")


Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # batch, head, query and key positions -> whether it is seen


def window_of(rule: Rule) -> int | None:
    """The window of a causal mask; None: a query sees all tokens up to its own.

    Raises:
        UnsupportedModelError: it is no causal mask, or not one that is the same for all positions.
    """
    with torch.device("cpu"):
        try:
            near, far = _seen(rule, 3), _seen(rule, FAR)
        except (RuntimeError, NotImplementedError) as error:
            raise UnsupportedModelError(f"its attention mask depends on more than positions: {error}") from error
    count = int(far.sum())
    regular = bool(far[FAR + 1 - count : FAR + 1].all()) and int(near.sum()) == min(4, count) and not near[4]
    if not regular:
        raise UnsupportedModelError("its attention mask is neither causal nor a sliding window")
    return None if count == FAR + 1 else count


def _seen(rule: Rule, query: int) -> Tensor:
    """A mask of the tokens 0 … query + 1 that the query at that position sees."""
    zero = torch.tensor(0)
    return torch.as_tensor(rule(zero, zero, torch.tensor(query), torch.arange(query + 2))).expand(query + 2)


def _unmixed(_: nn.Module, hidden_states: Tensor, *__: Any, **___: Any) -> Tensor:
    """Experts by their shapes alone: which ones a token goes to is known by its values only."""
    return torch.empty_like(hidden_states)


def _dtype(config: PreTrainedConfig, model: ModelConfig, files: ModelFiles) -> str:
    """The dtype that the checkpoint is stored in: its config's word, else that of its first tensor."""
    if model.dtype != "auto":
        return model.dtype
    named = str(config.dtype or config.get_text_config(decoder=True).dtype).removeprefix("torch.")
    if named in DTYPE_OF_FORMAT.values():
        return named
    if files.weights_format == "dummy":
        return "float32"
    from octavo_engine.weights.safetensors import SafetensorsCheckpoint  # noqa: PLC0415

    checkpoint = SafetensorsCheckpoint(files.weights)
    formats = [tensor.format for tensor in checkpoint.tensors.values()]
    checkpoint.close()
    return next((DTYPE_OF_FORMAT[name] for name in formats if name in DTYPE_OF_FORMAT), "float32")
