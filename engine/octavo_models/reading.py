"""Reads a ModelSpec from a config or GGUF metadata: finds the architecture, and the format of each weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from octavo_models.architectures import BY_GGUF_NAME, BY_HF_CLASS, BY_MODEL_TYPE
from octavo_models.errors import InvalidConfigError, MismatchError, UnsupportedFormatError, UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.formats import WEIGHT_FORMATS, nbytes
from octavo_models.gguf_header import LONG_FACTORS, ROPE_FACTORS, GgufHeader
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.purpose import GENERATE_OR_POOL, Purpose, language_model_of, with_purpose
from octavo_models.spec import FORMAT_OF_DTYPE, ModelSpec
from octavo_models.spec_draft import complete

DTYPE_OF_FORMAT = {format_: dtype for dtype, format_ in FORMAT_OF_DTYPE.items()}


def from_hf_config(
    config: Mapping[str, Any],
    *,
    dtype: str | None = None,
    tied_head: bool | None = None,
    purpose: Purpose = GENERATE_OR_POOL,
) -> ModelSpec:
    """The spec of a Hugging Face `config.json`.

    Weights are taken to be stored in the config's own dtype. `dtype` is what the model will run in, where that
    differs; the reference rounds some constants to it. `tied_head` overrides the config where the weights are known.
    `purpose` is what it is served for: a head of scores, or none, decides by itself.

    Raises:
        UnsupportedModelError: the architecture, or a feature of it, is not supported.
        InvalidConfigError: a field is missing, of the wrong type, or contradicts another; the message names it.
    """
    fields = Fields(config)
    name = _architecture(fields)
    known = name if name in BY_HF_CLASS else language_model_of(name, BY_HF_CLASS)
    if known is None:
        raise UnsupportedModelError(f"architecture {name!r} is not supported; supported are {', '.join(BY_HF_CLASS)}")
    if fields.has("quantization_config"):
        method = Fields(fields.mapping("quantization_config") or {}).text("quant_method", "unknown")
        raise UnsupportedFormatError(
            f"quantization_config: weights quantized as {method!r} are not supported; use the plain model or a GGUF file"
        )
    own = _dtype(fields)
    architecture = BY_MODEL_TYPE.get(fields.text("model_type", ""), BY_HF_CLASS[known])
    draft = architecture.from_hf(HfConfig(fields, dtype or own))
    if tied_head is not None:
        draft = replace(draft, tied_head=tied_head)
    draft = with_purpose(draft, name, fields, purpose, headless=known != name)
    return complete(draft, name, lambda _tensor: FORMAT_OF_DTYPE[own], own, None)


def from_gguf_header(header: GgufHeader) -> ModelSpec:
    """The spec of a GGUF file by its header (of several pieces: by the joined one). Raises as `from_gguf`."""
    tensors = {name: (tensor.format, tensor.shape) for name, tensor in header.tensors.items()}
    return from_gguf(header.metadata, tensors, rope_factors=header.rope_factors)


def from_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, Sequence[int]]],
    *,
    rope_factors: Sequence[float] | None = None,
) -> ModelSpec:
    """The spec of a GGUF file.

    Args:
        metadata: the file's keys and values.
        tensors: name → (format, shape); a format is a key of `FORMATS`, a shape has the contiguous axis last (GGUF
            itself writes it first).
        rope_factors: the values of the tensor of rotary factors that holds, where the file has one.

    Raises:
        UnsupportedModelError: the architecture, a feature of it, or a tensor's format is not supported.
        InvalidConfigError: a key or tensor is missing, of the wrong type, or contradicts another.
    """
    name = Fields(metadata).text("general.architecture")
    architecture = BY_GGUF_NAME.get(name)
    if architecture is None or architecture.from_gguf is None:
        raise UnsupportedModelError(
            f"GGUF architecture {name!r} is not supported; supported are {', '.join(BY_GGUF_NAME)}"
        )
    for factors in (ROPE_FACTORS, LONG_FACTORS):
        if factors in tensors and rope_factors is None:
            raise InvalidConfigError(f"the values of tensor {factors} are needed to describe the rotary embedding")
    known = {key: (format_, tuple(shape)) for key, (format_, shape) in tensors.items()}
    draft = architecture.from_gguf(GgufMetadata(Fields(metadata, f"{name}."), known, rope_factors))

    def format_of(tensor: str) -> str:
        if tensor not in known:
            raise MismatchError(f"tensor {tensor} is missing")
        format_ = known[tensor][0]
        if format_ not in WEIGHT_FORMATS:
            supported = ", ".join(WEIGHT_FORMATS)
            raise UnsupportedFormatError(f"tensor {tensor} is stored as {format_}; supported are {supported}")
        return format_

    spec = complete(draft, name, format_of, "float32", None)
    for weight in spec.weights:
        for source in weight.sources:
            weight.check(source, known[source.tensor][1] if source.tensor in known else None, "the metadata")
        nbytes(weight.format, weight.shape)
    stored = Counter(weight.format for weight in spec.weights if len(weight.shape) > 1)
    if set(stored) <= set(DTYPE_OF_FORMAT):
        return replace(spec, dtype=DTYPE_OF_FORMAT[stored.most_common(1)[0][0]])
    return replace(spec, quantization="gguf")


def _architecture(fields: Fields) -> str:
    names = fields.sequence("architectures")
    if not names:
        raise fields.error("architectures", "is missing or empty; it names the model's class")
    if not isinstance(names[0], str):
        raise fields.error("architectures", f"holds {names[0]!r}, not a string")
    return names[0]


def _dtype(fields: Fields) -> str:
    """The checkpoint's dtype; transformers 5 writes `dtype`, earlier ones `torch_dtype`, and float32 is the default."""
    text = Fields(fields.mapping("text_config") or {})
    for source in (fields, text):
        for key in ("dtype", "torch_dtype"):
            if source.has(key):
                value = source.text(key).removeprefix("torch.")
                if value not in FORMAT_OF_DTYPE:
                    known = ", ".join(FORMAT_OF_DTYPE)
                    raise UnsupportedModelError(f"{key} is {value!r}; supported are {known}")
                return value
    return "float32"
