"""Small random models of every architecture, made by transformers; every parameter is random, norms and biases too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import transformers

from octavo_testing.tiny_models import experts, latent, layer_norm, multimodal, rms_norm

SIZES = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # so that the logits differ clearly
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
MODELS = rms_norm.MODELS | layer_norm.MODELS | experts.MODELS | latent.MODELS | multimodal.MODELS
"""Name → transformers' config class and its fields beside those of SIZES that it has."""


def config_of(kind: str) -> Any:
    """transformers' config of the model called `kind` in MODELS, with the class of its checkpoint in `architectures`."""
    config_class, fields = MODELS[kind]
    config_type = getattr(transformers, config_class)
    if kind in multimodal.MODELS:
        text = SIZES | {"model_type": config_type().text_config.model_type} | fields["text_config"]
        config = config_type(**fields | {"text_config": text})
    else:
        known = {field.name for field in dataclasses.fields(config_type)} | set(config_type.attribute_map)
        config = config_type(**{name: value for name, value in SIZES.items() if name in known} | fields)
    config.architectures = [_class_of(kind, config_type).__name__]
    return config


def _class_of(kind: str, config_type: type) -> Any:
    """transformers' model class; of a family that its auto classes know as a text half alone, by its name."""
    multi = kind in multimodal.MODELS
    auto: Any = transformers.AutoModelForImageTextToText if multi else transformers.AutoModelForCausalLM
    if config_type in auto._model_mapping:
        return auto._model_mapping[config_type]
    return getattr(transformers, f"{config_type.__name__.removesuffix('Config')}ForCausalLM")


def make(kind: str, folder: Path) -> Any:
    """Write the model called `kind` in MODELS to `folder` as safetensors; transformers' own, in float32."""
    torch.manual_seed(11)
    config = config_of(kind)
    model = _class_of(kind, type(config))._from_config(config).float().eval()
    randomize(model)
    model.save_pretrained(folder)
    # Llama 4 with images fails in transformers where there is no image: its text half is the same decoder.
    return model.language_model if isinstance(model, transformers.Llama4ForConditionalGeneration) else model


def randomize(model: torch.nn.Module) -> None:
    """Move norms and biases from the ones and zeros that they begin as."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (
                parameter.ndim == 1 or "norm" in name or name.endswith("bias")
            ):  # of experts or heads: they have two axes
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.2)
