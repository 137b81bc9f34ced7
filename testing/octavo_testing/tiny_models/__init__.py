"""Small random models of every architecture, most of them made by transformers; every parameter is random."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from octavo_testing.tiny_models import experts, gemma, latent, layer_norm, multimodal, remote_code, rms_norm

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
MODELS = rms_norm.MODELS | layer_norm.MODELS | experts.MODELS | latent.MODELS | gemma.MODELS | multimodal.MODELS
"""Name → transformers' config class and its fields beside those of SIZES that it has."""
KINDS = (*MODELS, *remote_code.FAMILIES)
"""All small models: transformers' own, and those of families that it does not have."""
QUICK = frozenset(
    {
        "llama with biases",
        "llama yarn rope",
        "mistral with a window",
        "qwen 3",
        "gemma 2",
        "gemma 3",
        "gemma 3n",
        "gemma 4",
        "gemma 4 with experts",
        "phi 3 with longrope",
        "glm 4",
        "granite",
        "olmo 2",
        "exaone 4",
        "apertus",
        "deepseek v3",
        "minicpm 3",
        "ministral 3",
        "nanochat",
        "phi",
        "falcon 40b",
        "falcon rw",
        "gpt neox",
        "opt 350m",
        "gpt 2",
        "gpt bigcode",
        "gpt neo",
        "bloom",
        "mpt clipped",
        "stablelm 12b",
        "nemotron",
        "cohere 2",
        "mixtral",
        "qwen 2 with experts",
        "phi 3.5 with experts",
        "dots 1",
        "minimax m2",
        "gpt-oss",
        "llama 4",
        "mistral 3",
        "internlm 2",
        "baichuan 7b",
        "minicpm",
    }
)
"""The models that `make test` compares: together they have each part of a layer, and each layout of tensors."""
Logits = Callable[[list[int]], torch.Tensor]
"""Computes logits, float32 [num_tokens, vocabulary], from token ids."""


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A small model in a folder, and what its reference computes in float32 and, of one in bfloat16, in bfloat16 too."""

    folder: Path
    vocabulary: int
    logits: Logits
    logits_bfloat16: Logits | None = None


def config_json(kind: str) -> dict[str, Any]:
    """The config.json of one of KINDS."""
    if kind in MODELS:
        config: dict[str, Any] = config_of(kind).to_dict()
        return config
    return remote_code.config_of(remote_code.FAMILIES[kind])


def tiny(kind: str, folder: Path) -> Tiny:
    """Write one of KINDS to `folder`, in float32."""
    if kind in MODELS:
        return Tiny(folder, SIZES["vocab_size"], _logits(make(kind, folder)))
    family = remote_code.FAMILIES[kind]
    tensors = remote_code.random_tensors(family)
    remote_code.save(family, tensors, folder)
    return Tiny(folder, family.vocabulary, remote_code.reference(family, tensors))


def tiny_bfloat16(kind: str, folder: Path) -> Tiny:
    """Write one of KINDS to `folder`, in bfloat16. Its reference in float32 has the same rounded weights."""
    if kind in MODELS:
        make(kind, folder)
        path = folder / "model.safetensors"
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
        models = (_text_half(_load(kind, folder, dtype)) for dtype in (torch.float32, torch.bfloat16))
        return Tiny(folder, SIZES["vocab_size"], *map(_logits, models))
    family = remote_code.FAMILIES[kind]
    tensors = {name: tensor.bfloat16() for name, tensor in remote_code.random_tensors(family).items()}
    remote_code.save(family, tensors, folder)
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    logits, logits_bfloat16 = (remote_code.reference(family, each) for each in (wide, tensors))
    return Tiny(folder, family.vocabulary, logits, lambda ids: logits_bfloat16(ids).float())


def _logits(model: Any) -> Logits:
    @torch.inference_mode()
    def logits(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0].float()

    return logits


def _load(kind: str, folder: Path, dtype: torch.dtype) -> Any:
    return _class_of(kind, type(config_of(kind))).from_pretrained(folder, dtype=dtype).eval()


def _text_half(model: Any) -> Any:
    """Llama 4 with images fails in transformers where there is no image: its text half is the same decoder."""
    return model.language_model if isinstance(model, transformers.Llama4ForConditionalGeneration) else model


def config_of(kind: str) -> Any:
    """transformers' config of the model called `kind` in MODELS, with the class of its checkpoint in `architectures`."""
    config_class, fields = copy.deepcopy(MODELS[kind])  # transformers completes a dict that it is given
    config_type = getattr(transformers, config_class)
    if kind in multimodal.MODELS:
        text = SIZES | {"model_type": config_type().text_config.model_type} | fields["text_config"]
        config = config_type(**fields | {"text_config": text})
    else:
        known = {field.name for field in dataclasses.fields(config_type)} | set(config_type.attribute_map)
        config = config_type(**{name: value for name, value in SIZES.items() if name in known} | fields)
    config.architectures = [_class_name(kind, config_type)]
    return config


def _class_name(kind: str, config_type: Any) -> str:
    """The name of transformers' model class; of a family that its auto classes know as a text half alone, by rule.

    Importing the class itself would cost seconds over all kinds.
    """
    names = (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if kind in multimodal.MODELS else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    return names.get(config_type.model_type) or f"{config_type.__name__.removesuffix('Config')}ForCausalLM"


def _class_of(kind: str, config_type: type) -> Any:
    return getattr(transformers, _class_name(kind, config_type))


def make(kind: str, folder: Path) -> Any:
    """Write the model called `kind` in MODELS to `folder` as safetensors; transformers' own, in float32."""
    torch.manual_seed(11)
    config = config_of(kind)
    model = _class_of(kind, type(config))._from_config(config).float().eval()
    randomize(model)
    model.save_pretrained(folder)
    return _text_half(model)


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
