"""XVERSE: Llama under another name."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama

XVERSE = Architecture(("XverseForCausalLM",), llama.from_hf, "xverse", llama.from_gguf)
