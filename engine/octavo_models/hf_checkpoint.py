"""The spec of a Hugging Face model from its config and the headers of its weights; the weights win over the config."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from octavo_models.purpose import GENERATE_OR_POOL, Purpose
from octavo_models.reading import DTYPE_OF_FORMAT, from_hf_config
from octavo_models.spec import ModelSpec, Weight
from octavo_models.stored_tensor import StoredTensor
from octavo_models.tensors import LAYOUTS

Read = Callable[[StoredTensor, int, int], bytes]  # (tensor, offset in it, number of bytes)
CHUNK = 1 << 20


def from_hf_checkpoint(
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    read: Read,
    *,
    dtype: str | None = None,
    purpose: Purpose = GENERATE_OR_POOL,
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
    declared = from_hf_config(config, dtype=dtype, purpose=purpose)
    untied = _named_as_stored(from_hf_config(config, dtype=dtype, tied_head=False, purpose=purpose), tensors)
    sources = {weight.name: weight.sources[0].tensor for weight in untied.weights}
    # Of a model that pools, scores may be rows of the head.
    head = sources.get("head") or sources.get("dense_0") or sources["embedding"]
    tied = _is_tied(tensors.get(sources["embedding"]), tensors.get(head), read)
    warning = None
    if declared.pooling is not None:
        pass
    elif declared.tied_head and not tied:
        warning = (
            f"the config says that the head is tied to the embedding, and the weights hold another, {head}: it is used"
        )
    elif tied and not declared.tied_head and head not in tensors:
        warning = (
            f"the config says that the head is not tied, and the weights hold no {head}: the embedding serves as head"
        )
    spec = _named_as_stored(from_hf_config(config, dtype=dtype, tied_head=tied, purpose=purpose), tensors)
    weights = [
        dataclasses.replace(_turned(w, tensors), format=stored.get(w.sources[0].tensor, w.format)) for w in spec.weights
    ]
    if warning is None and (beyond := _beyond_the_layers(spec, tensors, config)) is not None:
        warning = (
            f"the config has {len(spec.layers)} layers, and the weights hold tensor {beyond}, which is not used; if the "
            "answers make no sense, fetch config.json and all files of the model again, from one place"
        )
    vision = spec.vision_parameters if spec.vision_parameters == 0 else _beside(spec, tensors)
    return dataclasses.replace(spec, weights=tuple(weights), vision_parameters=vision), warning


def _named_as_stored(spec: ModelSpec, tensors: Mapping[str, StoredTensor]) -> ModelSpec:
    """The spec with names of tensors as the checkpoint has them, if they differ in what they begin with.

    transformers leaves out `transformer.` or the like of a model that it saves without a head; GPT-2 and BLOOM were
    published that way. Where the text half of a model lies that also takes images has changed with its versions. BERT's
    first checkpoints call weight and bias of a norm gamma and beta.
    """
    spec = _with_prefix_as_stored(spec, tensors)

    def named(name: str) -> str:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return old if name not in tensors and old in tensors else name

    return _renamed(spec, named)


def _with_prefix_as_stored(spec: ModelSpec, tensors: Mapping[str, StoredTensor]) -> ModelSpec:
    embedding = spec.weights[0].sources[0].tensor
    if embedding in tensors:
        return spec
    first, _, rest = embedding.partition(".")
    if rest in tensors:
        return _renamed(spec, lambda name: name.removeprefix(f"{first}."))
    if spec.pooling is not None:  # what an encoder with a head is called in it has changed with its authors' code
        begin = next((name.removesuffix(rest) for name in tensors if name.endswith(f".{rest}")), "")
        return _renamed(
            spec, lambda name: begin + name.removeprefix(f"{first}.") if name.startswith(f"{first}.") else name
        )
    own = next((layout for layout in reversed(LAYOUTS) if embedding.startswith(layout.inner)), None)
    other = next((layout for layout in LAYOUTS if own and layout.name(own.plain(embedding) or "") in tensors), None)
    if own is None or other is None:
        return spec
    return _renamed(spec, lambda name: other.name(own.plain(name) or name))


def _renamed(spec: ModelSpec, rename: Callable[[str], str]) -> ModelSpec:
    def named(weight: Weight) -> Weight:
        sources = tuple(dataclasses.replace(source, tensor=rename(source.tensor)) for source in weight.sources)
        return dataclasses.replace(weight, sources=sources)

    return dataclasses.replace(spec, weights=tuple(map(named, spec.weights)))


def _turned(weight: Weight, tensors: Mapping[str, StoredTensor]) -> Weight:
    """The weight with its only source as [out_features, in_features] if the checkpoint has it so, and not transposed.

    Qwen3-VL was published with transposed experts, and transformers 5 saves them as it holds them.
    """
    (source, *others) = weight.sources
    stored = tensors.get(source.tensor)
    if others or stored is None or not source.transposed or weight.fits(source, stored.shape):
        return weight
    plain = dataclasses.replace(source, transposed=False)
    return dataclasses.replace(weight, sources=(plain,)) if weight.fits(plain, stored.shape) else weight


def _beyond_the_layers(spec: ModelSpec, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> str | None:
    """A tensor of a layer that the config does not count; those that predict further tokens follow the others."""
    text = config.get("text_config") or config
    following = text.get("num_nextn_predict_layers") or 0
    last = len(spec.layers) - 1
    for weight in spec.weights:
        if weight.layer != last:
            continue
        begin, number, rest = weight.sources[0].tensor.partition(f".{last}.")
        beyond = f"{begin}.{last + 1 + following}.{rest}"
        if number and beyond in tensors:
            return beyond
    return None


def _beside(spec: ModelSpec, tensors: Mapping[str, StoredTensor]) -> int:
    """Parameters that the decoder does not read."""
    read = {source.tensor for weight in spec.weights for source in weight.sources}
    return sum(math.prod(tensor.shape) for name, tensor in tensors.items() if name not in read)


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
