"""A decoder that `transformers` computes, over paged keys and values: its layers call this attention instead of theirs.

Beside `decoder.Decoder`, with the same methods for the executor. Owns loading and the way from the model's attention
to the operations of the kernels; what the layers compute is theirs. The step's rows lie in one batch entry, each with
its position, so that nothing outside attention sees where a request begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ExecutorError, ModelLoadError
from octavo_engine.executors.torch.decoder import DecoderInputs
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.executors.torch.scratch_cache import ScratchCache
from octavo_engine.executors.torch.transformers_config import transformers_config
from octavo_engine.executors.torch.transformers_model import DividedModel, new_model
from octavo_engine.executors.torch.transformers_parallel import divide
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import Operations
from octavo_models.layers import Attention
from octavo_models.outline import ModelOutline

NAME = "octavo_paged"  # without masks of that name, transformers makes none


class TransformersDecoder:
    """The model, loaded. `forward` writes KV blocks only."""

    def __init__(self, outline: ModelOutline, model: PreTrainedModel, ops: Operations, dtype: torch.dtype) -> None:
        self.model = model
        self.divided = DividedModel(model)
        self.on_part: Callable[[], None] = lambda: None  # called as each attention, or logits, were computed
        self._outline = outline
        self._ops = ops
        self._dtype = dtype

    @property
    def weight_bytes(self) -> int:
        return self.divided.weight_bytes

    def forward(self, inputs: DecoderInputs, cache: KVCache | ScratchCache) -> Tensor:
        """Run all layers over the step's rows and write their KV. Returns [num_tokens, hidden_size], normed."""
        step = _Step(inputs, cache, self._ops, self._outline.attentions, self._dtype, self.on_part)
        AttentionInterface.register(NAME, step.attend)
        try:
            hidden = self.divided.hidden(inputs.token_ids, inputs.positions)
        finally:
            register()
        assert step.num_done == len(self._outline.attentions), "a forward computes what its outline says"
        return hidden.to(self._dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size], normed -> [n, vocab], float32."""
        logits = self.divided.logits(hidden).float()
        self.on_part()
        return logits


@dataclass(slots=True)
class _Step:
    """One forward's attention, in the order in which the layers ask for it."""

    inputs: DecoderInputs
    cache: KVCache | ScratchCache
    ops: Operations
    attentions: tuple[Attention, ...]
    dtype: torch.dtype
    on_part: Callable[[], None]
    num_done: int = 0

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """query, key, value: [1, heads, num_tokens, dim]; s_aux: sinks, one a head -> [1, num_tokens, heads, dim of value]."""
        del module
        assert attention_mask is None, "no mask is made: the requests' blocks say which tokens a row sees"
        i = self.num_done
        spec, keys, values = self.attentions[i], self.cache.keys[i], self.cache.values[i]
        batch = self.inputs.groups[self.cache.group_of_layer[i]]
        if (query.shape[1], key.shape[1]) != (spec.num_heads, spec.num_kv_heads):
            raise ExecutorError(
                f"this rank's part of the model has {query.shape[1]} heads over {key.shape[1]} of keys, where its outline "
                f"has {spec.num_heads} over {spec.num_kv_heads}; leave --tensor-parallel-size out"
            )
        qkv = torch.cat([x[0].transpose(0, 1).flatten(1).to(self.dtype) for x in (query, key, value)], -1)
        q = self.ops.write_qkv(qkv, spec, HeadChanges(), keys, values, batch)
        sinks = None if s_aux is None else s_aux.flatten().to(self.dtype)
        mixed = self.ops.attention(q, keys, values, batch, spec, sinks=sinks)  # [num_tokens, heads, dim]
        self.num_done += 1
        self.on_part()
        return mixed[None].to(query.dtype), None


def _outside_of_a_step(*_: Any, **__: Any) -> tuple[Tensor, None]:
    raise AssertionError("attention over blocks runs within a step")


def register() -> None:
    """Let models be made with this attention."""
    AttentionInterface.register(NAME, _outside_of_a_step)


def load_model(
    outline: ModelOutline,
    files: ModelFiles,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    parallel: Parallel = ALONE,
) -> PreTrainedModel:
    """The model with its weights in `dtype` on `device`, read by transformers; random ones without files.

    A rank of several reads all of it into host memory, and keeps its part.

    Raises:
        ModelLoadError: the checkpoint lacks tensors, or they don't fit the configuration.
        ExecutorError: the model can't be divided among so many ranks.
    """
    register()
    config = transformers_config(files)
    if files.weights_format == "dummy":
        torch.manual_seed(seed)
        with device:
            made = new_model(config, NAME, dtype)
        divide(made, parallel, device)
        return made
    quiet: Any = transformers.utils.logging
    quiet.disable_progress_bar()
    auto: Any = AutoModelForCausalLM
    alone = device.type != "cpu" and parallel.place.tensor_size == 1
    straight = alone and find_spec("accelerate") is not None  # else by way of host memory
    try:
        model, info = auto.from_pretrained(
            files.folder,
            config=config,
            dtype=dtype,
            attn_implementation=NAME,
            device_map={"": device} if straight else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelLoadError(f"{files.folder}: transformers can't load {outline.architecture}: {error}") from error
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            first = min(map(str, info[what]))
            raise ModelLoadError(
                f"{files.folder}: the checkpoint does not fit {outline.architecture}: {what.replace('_keys', '')} "
                f"{first}{f' and {len(info[what]) - 1} more' if len(info[what]) > 1 else ''}"
            )
    loaded: PreTrainedModel = model.eval()
    divide(loaded, parallel, device)
    return loaded
