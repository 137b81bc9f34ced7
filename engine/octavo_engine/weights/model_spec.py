"""Describes a model's files as a ModelSpec: reads config.json or the GGUF header for octavo_models."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import msgspec
import tokenizers

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.folder import modules_of
from octavo_engine.weights.json_files import read_object
from octavo_engine.weights.weight_file import WeightFile, naming
from octavo_models import ModelSpec, from_gguf_header, from_hf_checkpoint, from_hf_config
from octavo_models.gguf_header import read_architecture
from octavo_models.purpose import Purpose

logger = logging.getLogger(__name__)


def read_spec(model: ModelConfig, files: ModelFiles) -> ModelSpec:
    """The spec of the model in `files`.

    Raises:
        ModelLoadError: the files can't be read, or describe a model that isn't supported or contradicts itself.
    """
    if files.weights_format == "gguf":
        if model.load_format in {"dummy", "safetensors"}:
            raise ModelLoadError(
                f"{files.weights[0]}: --load-format {model.load_format} needs a folder with a config.json; "
                "a GGUF file is loaded as it is"
            )
        if model.runner == "pooling" or model.convert in {"embed", "classify"}:
            raise ModelLoadError(f"{files.weights[0]}: GGUF files generate alone; pool with a folder of safetensors")
        return _describe_gguf(files)
    config = read_config(files) | msgspec.json.decode(model.hf_overrides or "{}", type=dict[str, Any])
    purpose = purpose_of(model, files)
    dtype = None if model.dtype == "auto" else model.dtype
    assert files.config is not None, "only GGUF files do without a config"
    if files.weights_format == "dummy":
        with naming(files.config):
            return from_hf_config(config, dtype=dtype, purpose=purpose)
    from octavo_engine.weights.safetensors import SafetensorsCheckpoint  # noqa: PLC0415

    with closing(SafetensorsCheckpoint(files.weights)) as checkpoint, naming(files.config):
        spec, warning = from_hf_checkpoint(
            config, checkpoint.stored, checkpoint.read_part, dtype=dtype, purpose=purpose
        )
    if warning is not None:
        logger.warning("%s: %s", files.config, warning)
    return spec


def purpose_of(model: ModelConfig, files: ModelFiles) -> Purpose:
    """The purpose that the model is served for, by the flags and by what sentence-transformers has written beside it."""

    def token_id(token: str) -> int | None:
        if files.tokenizer is None or files.tokenizer.suffix != ".json":
            raise ModelLoadError(f"{files.folder} has no tokenizer.json, in which {token!r} would be looked up")
        found = tokenizers.Tokenizer.from_file(str(files.tokenizer)).token_to_id(token)
        return None if found is None else int(found)

    return Purpose(model.runner, model.convert, modules_of(files.folder), model.pooling, token_id)


def architecture_names(files: ModelFiles) -> tuple[str, ...]:
    """The names that the model's own files give its architecture. Raises ModelLoadError where they can't be read."""
    if files.weights_format == "gguf":
        file = WeightFile(files.weights[0])
        with closing(file):
            return (str(file.header(read_architecture)),)
    named = read_config(files).get("architectures")
    return tuple(map(str, named)) if isinstance(named, list) else ()


def hidden_size(files: ModelFiles) -> int | None:
    """The model's hidden size, as its own files have it. Raises ModelLoadError where they can't be read."""
    if files.weights_format == "gguf":
        return _describe_gguf(files).hidden_size
    found = read_config(files).get("hidden_size")
    return found if isinstance(found, int) else None


def read_config(files: ModelFiles) -> dict[str, Any]:
    """The model's config.json. Raises ModelLoadError where it isn't JSON, or not an object."""
    assert files.config is not None, "only GGUF files do without a config"
    return read_object(files.config)


def _describe_gguf(files: ModelFiles) -> ModelSpec:
    from octavo_engine.weights.gguf import GgufCheckpoint  # noqa: PLC0415

    checkpoint = GgufCheckpoint(files.weights)
    checkpoint.close()
    with naming(files.weights[0]):
        return from_gguf_header(checkpoint.header)
