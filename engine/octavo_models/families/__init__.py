"""One page an architecture family: what its config and its GGUF metadata say, field by field.

A page is a function from checked fields to a Description; it knows nothing of files, formats or bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo_models.description import Description
from octavo_models.families import gemma3, llama, qwen
from octavo_models.families.sources import GgufSource, HfSource


@dataclass(frozen=True, slots=True)
class Page:
    """The two readers of an architecture."""

    from_hf: Callable[[HfSource], Description]
    from_gguf: Callable[[GgufSource], Description] | None


LLAMA = Page(llama.from_hf, llama.from_gguf)
MISTRAL = Page(llama.mistral_from_hf, llama.from_gguf)
SMOLLM3 = Page(llama.smollm3_from_hf, llama.smollm3_from_gguf)
QWEN2 = Page(qwen.qwen2_from_hf, qwen.qwen2_from_gguf)
QWEN3 = Page(qwen.qwen3_from_hf, qwen.qwen3_from_gguf)
GEMMA3 = Page(gemma3.from_hf, gemma3.from_gguf)

BY_HF_CLASS = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "SmolLM3ForCausalLM": SMOLLM3,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": Page(gemma3.from_multimodal_hf, None),
}
BY_GGUF_NAME = {"llama": LLAMA, "smollm3": SMOLLM3, "qwen2": QWEN2, "qwen3": QWEN3, "gemma3": GEMMA3}
