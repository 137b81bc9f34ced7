"""From a model's files to its ModelSpec: reads config.json or the GGUF header, and asks octavo_models."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.json_files import read_object
from octavo_engine.weights.weight_file import naming
from octavo_models import ModelSpec, from_gguf_header, from_hf_config
from octavo_models.reading import DTYPE_OF_FORMAT


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
    assert files.config is not None
    with naming(files.config):
        spec = from_hf_config(config, dtype=None if model.dtype == "auto" else model.dtype)
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
    return read_object(files.config)


def _describe_gguf(files: ModelFiles) -> ModelSpec:
    from octavo_engine.weights.gguf import GgufCheckpoint  # noqa: PLC0415

    checkpoint = GgufCheckpoint(files.weights)
    checkpoint.close()
    with naming(files.weights[0]):
        return from_gguf_header(checkpoint.header)
