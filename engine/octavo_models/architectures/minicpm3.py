"""MiniCPM 3: MiniCPM 2 with latent attention, whose rotary pairs lie half a head apart."""

from __future__ import annotations

import math
from dataclasses import replace

from octavo_models import gguf_parts, latent
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, minicpm
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.fields import MOST_HEADS
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c = source.fields
    hidden, heads = c.integer("hidden_size"), c.integer("num_attention_heads", maximum=MOST_HEADS)
    attention = latent.from_hf(source, interleaved=False, v_dim=hidden // heads)
    draft = llama.draft_from_hf(
        source,
        [attention] * source.num_layers(),
        norm=llama.rms_norm(source, 1e-5),
        tensors=HF_LLAMA.updated(latent.hf_tensors(attention)),
        tied_head=True,
    )
    return replace(
        draft,
        embedding_multiplier=c.number("scale_emb", minicpm.EMBEDDING),
        residual_multiplier=c.number("scale_depth", minicpm.DEPTH) / math.sqrt(len(draft.layers)),
        logits_multiplier=c.number("dim_model_base", minicpm.BASE) / hidden,
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, attention = source.num_layers(), latent.from_gguf(source, interleaved=False)
    tensors = latent.gguf_tensors(source, attention)
    draft = gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, tensors)
    return minicpm.multiplied(source, draft)


MINICPM3 = Architecture(("MiniCPM3ForCausalLM",), from_hf, "minicpm3", from_gguf)
