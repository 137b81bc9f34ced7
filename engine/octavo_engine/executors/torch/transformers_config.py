"""Refuses models that `transformers` can't run here, judged by their configuration alone, with what is in the way.

Owns the refusals. Nothing of a model's own code is run, and no weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.model_spec import read_config
from octavo_models.errors import UnsupportedModelError

PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
OF_THE_LONGEST = {"dynamic", "longrope"}  # rotary frequencies that depend on the longest request of a batch
REMEDY = "choose another model, or --model-impl octavo if its architecture is described"


def transformers_config(files: ModelFiles) -> PreTrainedConfig:
    """The model's configuration as transformers reads it.

    Raises:
        ModelLoadError: it can't be read, or the model needs what does not run here.
    """
    if files.weights_format == "gguf":
        raise ModelLoadError(
            f"{files.weights[0]}: transformers runs models in folders with a config.json, and this is a GGUF file; "
            "--model-impl octavo runs those whose architecture is described"
        )
    values = read_config(files)
    try:
        _refuse_values(values)
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
        check_config(config)
    except UnsupportedModelError as error:
        raise ModelLoadError(f"{files.config}: {error}; {REMEDY}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ModelLoadError(f"{files.config}: transformers can't read it: {error}") from error
    return config


def check_config(config: PreTrainedConfig) -> None:
    """Raise UnsupportedModelError for what a model of this configuration would need."""
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder:
        raise UnsupportedModelError("it is an encoder with a decoder")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(f"transformers has no causal language model for {config.model_type}")
    others = sorted({str(kind) for kind in getattr(text, "layer_types", None) or ()} - PLAIN_LAYERS)
    if others:
        raise UnsupportedModelError(f"layer_types names {others[0]}, which is not attention over keys and values")
    for rope in _ropes(getattr(text, "rope_parameters", None)):
        if rope.get("rope_type") in OF_THE_LONGEST:
            raise UnsupportedModelError(
                f"rotary frequencies of the kind {rope['rope_type']} depend on the longest request of a batch"
            )
    model = model_class(config)
    if model._is_stateful:  # noqa: SLF001 — transformers' own mark of recurrent models
        raise UnsupportedModelError(f"{model.__name__} keeps a recurrent state")


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The causal language model of a configuration that `check_config` let pass."""
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return model


def _refuse_values(values: dict[str, Any]) -> None:
    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        why = "its own code (auto_map), which is never run" if "auto_map" in values else "a newer one, or another"
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no model_type {kind!r}: the model needs {why}"
        )
    quantized = next((name for name in ("quantization_config", "compression_config") if values.get(name)), None)
    if quantized is not None:
        raise UnsupportedModelError(f"{quantized}: quantized checkpoints do not run through transformers here")


def _ropes(parameters: Any) -> Iterator[dict[str, Any]]:
    """Each kind of rotary embedding: one for all layers, or one for each of their types."""
    if isinstance(parameters, dict):
        yield parameters
        for inner in parameters.values():
            yield from _ropes(inner)
