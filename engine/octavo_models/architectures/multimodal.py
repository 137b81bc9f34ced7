"""The text half of models that also take images: a decoder of its own config, whose tensors lie beside the vision half's.

Requests with images are refused where they are read; for text alone, rotary embeddings in several dimensions (mrope)
are plain ones, and what the vision half would add to a layer is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from octavo_models.architecture import Architecture
from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import Layout


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Classes whose text half has its tensors in `layout`, and its `model_type` where the config is silent.

    A flat config has the text half's fields beside the others.
    """

    classes: tuple[str, ...]
    layout: Layout
    kind: str = ""
    flat: bool = False


LLAVA = Layout("language_model.model.", "language_model.")
WRAPPERS = (
    Wrapper(("Gemma3ForConditionalGeneration",), LLAVA, "gemma3_text"),
    Wrapper(("Gemma4ForConditionalGeneration", "Gemma3nForConditionalGeneration"), Layout("model.language_model.")),
    Wrapper(("Llama4ForConditionalGeneration",), LLAVA, "llama4_text"),
    Wrapper(
        (
            "InternVLChatModel",
            "InternVLForConditionalGeneration",
            "LlavaForConditionalGeneration",
            "LlavaNextForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
        ),
        LLAVA,
    ),
    Wrapper(
        ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"), Layout("model."), "qwen2_vl", True
    ),
    Wrapper(("Qwen3VLForConditionalGeneration",), Layout("model.language_model."), "qwen3_vl_text"),
    Wrapper(("Qwen3VLMoeForConditionalGeneration",), Layout("model.language_model."), "qwen3_vl_moe_text"),
    Wrapper(("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"), Layout("model.text_model.")),
)

# By the text half's `model_type`: the class of the decoder, and what it assumes where published configs are silent.
DECODERS = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "llama": "LlamaForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_vl": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen2_vl": "Qwen2ForCausalLM",
    "qwen2_vl_text": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_vl_moe_text": "Qwen3VLMoeTextForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}
MISTRAL_7B = LLAMA_7B | {
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
}
DEFAULTS: dict[str, Mapping[str, int]] = {"llama": LLAMA_7B, "mistral": MISTRAL_7B}


def wrapping(decoders: Mapping[str, Architecture]) -> tuple[Architecture, ...]:
    """The architectures of all wrappers around `decoders`, which are given by their class."""

    def architecture(wrapper: Wrapper) -> Architecture:
        return Architecture(wrapper.classes, lambda source: from_hf(source, wrapper, decoders))

    return tuple(map(architecture, WRAPPERS))


def from_hf(source: HfConfig, wrapper: Wrapper, decoders: Mapping[str, Architecture]) -> SpecDraft:
    """The text half, as its own architecture describes it."""
    c = source.fields
    name = "llm_config" if c.has("llm_config") else "text_config"
    text = c.mapping(name)
    if text is None and wrapper.flat:
        text = c.values
    if text is None:
        raise c.error(name, "is missing")
    kind = Fields(text).text("model_type", wrapper.kind)
    if kind not in DECODERS:
        raise UnsupportedModelError(f"{name}: model_type is {kind!r}; supported are {', '.join(DECODERS)}")
    # Which of the two configs says that the head is tied has changed with transformers' versions.
    tied = {"tie_word_embeddings": True} if c.boolean("tie_word_embeddings", False) else {}
    fields = Fields({**DEFAULTS.get(kind, {}), **text, **tied})
    draft = decoders[DECODERS[kind]].from_hf(replace(source, fields=fields))
    vision = c.mapping("vision_config")
    tower = None
    if vision is None:
        tower = 0
    elif kind == "gemma3_text":
        tower = _siglip_parameters(Fields(vision), draft.hidden_size)
    return replace(draft, tensors=draft.tensors.laid_out(wrapper.layout), vision_parameters=tower)


def _siglip_parameters(c: Fields, text_width: int) -> int:
    """Parameters of Gemma 3's tower and its projector; shapes and defaults are those of transformers' SiglipVisionModel."""
    width, inner = c.integer("hidden_size", 1152), c.integer("intermediate_size", 4304)
    patch, patches = c.integer("patch_size", 14), (c.integer("image_size", 896) // c.integer("patch_size", 14)) ** 2
    attention = 4 * (width + 1) * width
    mlp = (width + 1) * inner + (inner + 1) * width
    layers = c.integer("num_hidden_layers", 27) * (attention + mlp + 4 * width)  # two norms, weights and biases
    embeddings = 3 * patch * patch * width + width + patches * width
    return embeddings + layers + 2 * width + width * text_width + width
