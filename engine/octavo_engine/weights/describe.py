"""From a model's files to its ModelSpec: reads config.json or the GGUF header, and asks octavo_models."""

from __future__ import annotations

import json
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_models import ModelError, ModelSpec, from_gguf, from_hf_config
from octavo_models.reading import ROPE_FACTORS


def describe(model: ModelConfig, files: ModelFiles) -> ModelSpec:
    """The spec of the model in `files`.

    Raises:
        ModelLoadError: the files can't be read, or describe a model that isn't supported or contradicts itself.
    """
    if files.weights_format == "gguf":
        return _describe_gguf(files)
    config = read_config(files)
    try:
        return from_hf_config(config, dtype=None if model.dtype == "auto" else model.dtype)
    except ModelError as error:
        raise ModelLoadError(f"{files.config}: {error}") from error


def read_config(files: ModelFiles) -> dict[str, Any]:
    """The model's config.json. Raises ModelLoadError where it isn't JSON, or not an object."""
    assert files.config is not None, "only GGUF files do without a config"
    try:
        config = json.loads(files.config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{files.config}: it can't be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{files.config}: it holds no JSON object")
    return config


def _describe_gguf(files: ModelFiles) -> ModelSpec:
    from octavo_engine.weights.gguf import GgufCheckpoint  # noqa: PLC0415

    checkpoint = GgufCheckpoint(files.weights)
    try:
        tensors = {name: (info.format, info.shape) for name, info in checkpoint.tensors.items()}
        factors = None
        if ROPE_FACTORS in tensors and tensors[ROPE_FACTORS][0] == "f32":
            factors = checkpoint.read(ROPE_FACTORS).cast("f").tolist()
        return from_gguf(checkpoint.metadata, tensors, rope_factors=factors)
    except ModelError as error:
        raise ModelLoadError(f"{files.weights[0]}: {error}") from error
    finally:
        checkpoint.close()
