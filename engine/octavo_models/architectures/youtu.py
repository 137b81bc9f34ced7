"""Youtu-LLM: DeepSeek's latent attention in a decoder without experts."""

from __future__ import annotations

from octavo_models import latent
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    attention = latent.from_hf(source)
    tensors = HF_LLAMA.updated(latent.hf_tensors(attention))
    return llama.draft_from_hf(source, [attention] * source.num_layers(), tensors=tensors, tied_head=True)


YOUTU = Architecture(("YoutuForCausalLM",), from_hf)
