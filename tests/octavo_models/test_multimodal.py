"""The text half of a model that also takes images is described as a decoder of its own, wherever its tensors lie."""

from __future__ import annotations

import pytest
import transformers
from published_configs import GEMMA_3_4B, QWEN3_0_6B
from published_experts import LLAMA_4_SCOUT_TEXT, QWEN3_30B_A3B
from published_multimodal import (
    MISTRAL_SMALL_3_1,
    PARAMETERS,
    PIXTRAL_12B,
    QWEN2_5_VL_7B,
    QWEN3_VL_4B,
    QWEN3_VL_30B_A3B,
)

from octavo_models import InvalidConfigError, UnsupportedModelError, from_hf_checkpoint, from_hf_config
from octavo_models.architectures import BY_HF_CLASS
from octavo_models.architectures.multimodal import DECODERS, DEFAULTS
from octavo_models.stored_tensor import StoredTensor
from octavo_models.tensors import Rows, Source


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_text_half_has_the_parameters_of_the_model_that_it_was_made_of(name):
    config, parameters = PARAMETERS[name]
    spec = from_hf_config(config)
    assert (spec.num_parameters, spec.vision_parameters, spec.dtype) == (parameters, None, "bfloat16")


def test_each_class_keeps_the_text_half_in_its_own_place():
    def names(config):
        spec = from_hf_config(config, tied_head=False)
        return [
            spec.weights[0].sources[0].tensor,
            spec.weights[1].sources[0].tensor,
            spec.weights[-1].sources[0].tensor,
        ]

    assert names(MISTRAL_SMALL_3_1) == [
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.input_layernorm.weight",
        "language_model.lm_head.weight",
    ]
    assert names(QWEN2_5_VL_7B) == [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "lm_head.weight",
    ]
    assert names(QWEN3_VL_4B) == [
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.input_layernorm.weight",
        "lm_head.weight",
    ]


def stored(spec, rename=lambda name: name):
    """The tensors of a checkpoint of `spec` under other names."""
    tensors = {}
    for weight in spec.weights:
        for source in weight.sources:
            tensors[rename(source.tensor)] = StoredTensor("bf16", weight.shape, 0, weight.nbytes)
    return tensors


PLACES = {
    "as llava": lambda name: f"language_model.{name}",
    "as qwen 3 vl": lambda name: name.replace("model.", "model.language_model.", 1),
    "alone": lambda name: name,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("config", [QWEN2_5_VL_7B, QWEN3_VL_4B, GEMMA_3_4B, QWEN3_0_6B])
def test_the_tensors_are_found_wherever_a_version_of_transformers_has_put_them(config, place):
    expected = from_hf_config(config, tied_head=True)
    alone = {"language_model.model.": "model.", "model.language_model.": "model."}

    def moved(name):
        for own, other in alone.items():
            name = name.replace(own, other, 1)
        return PLACES[place](name)

    tensors = stored(expected, moved)
    tensors["vision_tower.patch.weight"] = StoredTensor("bf16", (3, 5), 0, 30)
    spec, _ = from_hf_checkpoint(config, tensors, lambda *_: b"")
    sources = {source.tensor for weight in spec.weights for source in weight.sources}
    assert sources == tensors.keys() - {"vision_tower.patch.weight"}
    assert spec.vision_parameters == (0 if config in (GEMMA_3_4B, QWEN3_0_6B) else 15)


@pytest.mark.parametrize("transposed", [True, False])
def test_experts_that_share_a_tensor_are_read_transposed_or_not_as_they_are_stored(transposed):
    expected = from_hf_config(QWEN3_VL_30B_A3B)
    shape = (128, 2048, 1536) if transposed else (128, 1536, 2048)
    tensors = stored(expected)
    name = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    tensors[name] = StoredTensor("bf16", shape, 0, 2 * 128 * 2048 * 1536)
    spec, _ = from_hf_checkpoint(QWEN3_VL_30B_A3B, tensors, lambda *_: b"")
    (source,) = next(weight.sources for weight in spec.weights if weight.name == "layers.0.experts_up")
    assert source == Source(name, Rows(768, 768, 1536, 128), transposed)


def test_the_text_half_is_the_decoder_that_its_model_type_names():
    llama4 = {"architectures": ["Llama4ForConditionalGeneration"], "torch_dtype": "bfloat16"}
    wrapped = from_hf_config(llama4 | {"text_config": LLAMA_4_SCOUT_TEXT | {"model_type": "llama4_text"}})
    assert wrapped.layers == from_hf_config(LLAMA_4_SCOUT_TEXT).layers
    assert wrapped.vision_parameters == 0
    internvl = {"architectures": ["InternVLChatModel"], "llm_config": QWEN3_30B_A3B | {"model_type": "qwen3_moe"}}
    assert from_hf_config(internvl).layers == from_hf_config(QWEN3_30B_A3B).layers
    assert set(DECODERS.values()) <= BY_HF_CLASS.keys()


def test_either_config_can_say_that_the_head_is_tied():
    inner = {**QWEN3_VL_4B["text_config"], "tie_word_embeddings": False}
    assert from_hf_config(QWEN3_VL_4B | {"text_config": inner}).tied_head
    outer = QWEN3_VL_4B | {"tie_word_embeddings": None}
    assert from_hf_config(outer).tied_head
    assert not from_hf_config(outer | {"text_config": inner}).tied_head


@pytest.mark.parametrize("kind", DEFAULTS)
def test_what_published_configs_leave_out_is_what_transformers_assumes(kind):
    config = transformers.CONFIG_MAPPING[kind]()
    assert {name: getattr(config, name) for name in DEFAULTS[kind]} == DEFAULTS[kind]


def test_a_text_half_that_is_missing_or_not_supported_is_named():
    with pytest.raises(InvalidConfigError, match="text_config is missing"):
        from_hf_config(PIXTRAL_12B | {"text_config": None})
    words = r"text_config: model_type is 'mamba2'; supported are .*gemma3_text"
    with pytest.raises(UnsupportedModelError, match=words):
        from_hf_config(PIXTRAL_12B | {"text_config": {"model_type": "mamba2"}})
    with pytest.raises(InvalidConfigError, match="num_key_value_heads is 7"):
        from_hf_config(QWEN2_5_VL_7B | {"num_key_value_heads": 7, "num_attention_heads": 15})
