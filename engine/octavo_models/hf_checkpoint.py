"""The spec of a Hugging Face model from its config and the headers of its weights; the weights win over the config."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from octavo_models.reading import DTYPE_OF_FORMAT, from_hf_config
from octavo_models.spec import ModelSpec
from octavo_models.stored_tensor import StoredTensor
from octavo_models.tensors import Source

Read = Callable[[StoredTensor, int, int], bytes]  # (tensor, offset in it, number of bytes)
CHUNK = 1 << 20


def from_hf_checkpoint(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], read: Read, *, dtype: str | None = None
) -> tuple[ModelSpec, str | None]:
    """The spec of a model whose weights are available, and a warning if they contradict the config.

    Each weight has the format that it is stored in, a config without a dtype takes the most frequent one, and the
    head is tied to the embedding if the weights hold none of its own (or a copy of the embedding, byte for byte).
    Weights that were saved without a head may have names without the part that a model with a head puts first.

    Raises as `from_hf_config`.
    """
    stored = {name: tensor.format for name, tensor in tensors.items() if tensor.format in DTYPE_OF_FORMAT}
    if stored and not any(config.get(key) for key in ("dtype", "torch_dtype", "text_config")):
        config = {**config, "dtype": DTYPE_OF_FORMAT[Counter(stored.values()).most_common(1)[0][0]]}
    declared = from_hf_config(config, dtype=dtype)
    untied = _named_as_stored(from_hf_config(config, dtype=dtype, tied_head=False), tensors)
    sources = {weight.name: weight.sources[0].tensor for weight in untied.weights}
    head = sources["head"]
    tied = _is_tied(tensors.get(sources["embedding"]), tensors.get(head), read)
    warning = None
    if declared.tied_head and not tied:
        warning = (
            f"the config says that the head is tied to the embedding, and the weights hold another, {head}: it is used"
        )
    elif tied and not declared.tied_head and head not in tensors:
        warning = (
            f"the config says that the head is not tied, and the weights hold no {head}: the embedding serves as head"
        )
    spec = _named_as_stored(from_hf_config(config, dtype=dtype, tied_head=tied), tensors)
    weights = [dataclasses.replace(w, format=stored.get(w.sources[0].tensor, w.format)) for w in spec.weights]
    return dataclasses.replace(spec, weights=tuple(weights)), warning


def _named_as_stored(spec: ModelSpec, tensors: Mapping[str, StoredTensor]) -> ModelSpec:
    """The spec with `transformer.` or the like left out of its tensors' names, if the checkpoint has them so.

    transformers saves a model without a head so; GPT-2 and BLOOM were published that way.
    """
    embedding = spec.weights[0].sources[0].tensor
    first, _, rest = embedding.partition(".")
    if embedding in tensors or rest not in tensors:
        return spec

    def renamed(source: Source) -> Source:
        return dataclasses.replace(source, tensor=source.tensor.removeprefix(f"{first}."))

    return dataclasses.replace(
        spec, weights=tuple(dataclasses.replace(w, sources=tuple(map(renamed, w.sources))) for w in spec.weights)
    )


def _is_tied(embedding: StoredTensor | None, head: StoredTensor | None, read: Read) -> bool:
    if head is None or embedding is None:
        return head is None
    if (head.format, head.shape) != (embedding.format, embedding.shape):
        return False
    return all(
        read(embedding, at, size) == read(head, at, size)
        for at in range(0, head.nbytes, CHUNK)
        if (size := min(CHUNK, head.nbytes - at))
    )
