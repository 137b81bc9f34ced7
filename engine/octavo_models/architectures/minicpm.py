"""MiniCPM 1, 2 and 4: Llama with a factor each on the embedding, on both halves and on the logits."""

from __future__ import annotations

import math
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import GGUF_LLAMA
from octavo_models.errors import UnsupportedModelError
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft

# What the converter wrote before it wrote keys for the factors: those of MiniCPM-2B.
EMBEDDING, DEPTH, BASE = 12.0, 1.4, 256


def from_hf(source: HfConfig) -> SpecDraft:
    c = source.fields
    for name in ("num_experts", "sparse_config"):
        if c.has(name) and c.raw(name) != 0:
            raise UnsupportedModelError(f"{name}: such a MiniCPM is not supported")
    draft = llama.from_hf(source)
    if not c.has("tie_word_embeddings"):  # transformers' default at the time
        draft = replace(draft, tied_head=True)
    hidden = draft.hidden_size
    return replace(
        draft,
        embedding_multiplier=c.number("scale_emb", 1.0),
        residual_multiplier=c.number("scale_depth", 1.0) / math.sqrt(len(draft.layers)),
        logits_multiplier=c.number("dim_model_base", 1.0) / hidden,
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, attention = source.num_layers(), gguf_parts.attention(source, GGUF_LLAMA)
    return multiplied(
        source, gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, GGUF_LLAMA)
    )


def multiplied(source: GgufMetadata, draft: SpecDraft) -> SpecDraft:
    """`draft` with the file's factors."""
    m = source.fields
    return replace(
        draft,
        embedding_multiplier=m.number("embedding_scale", EMBEDDING),
        residual_multiplier=m.number("residual_scale", DEPTH / math.sqrt(len(draft.layers))),
        logits_multiplier=1 / m.number("logit_scale", draft.hidden_size / BASE),
    )


MINICPM = Architecture(("MiniCPMForCausalLM",), from_hf, "minicpm", from_gguf)
