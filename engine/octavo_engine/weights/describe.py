"""From a model's files to its ModelSpec: reads config.json or the GGUF header, and asks octavo_models."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_models import ModelError, ModelSpec, from_gguf, from_hf_config
from octavo_models.reading import DTYPE_OF_FORMAT, ROPE_FACTORS


def describe(model: ModelConfig, files: ModelFiles) -> ModelSpec:
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
        return _describe_gguf(files)
    config = read_config(files)
    stored = _stored_formats(files)
    if stored and not any(config.get(key) for key in ("dtype", "torch_dtype", "text_config")):
        config["dtype"] = DTYPE_OF_FORMAT[Counter(stored.values()).most_common(1)[0][0]]
    try:
        spec = from_hf_config(config, dtype=None if model.dtype == "auto" else model.dtype)
    except ModelError as error:
        raise ModelLoadError(f"{files.config}: {error}") from error
    # What the files hold counts, not what the config says of them: sizes are exact.
    weights = [dataclasses.replace(w, format=stored.get(w.sources[0], w.format)) for w in spec.weights]
    return dataclasses.replace(spec, weights=tuple(weights))


def _stored_formats(files: ModelFiles) -> dict[str, str]:
    """Tensor name to format, of those in a plain dtype; empty for `dummy`, which has no files."""
    if files.weights_format != "safetensors":
        return {}
    from octavo_engine.weights.safetensors import SafetensorsCheckpoint  # noqa: PLC0415

    checkpoint = SafetensorsCheckpoint(files.weights)
    checkpoint.close()
    return {name: info.format for name, info in checkpoint.tensors.items() if info.format in DTYPE_OF_FORMAT}


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
