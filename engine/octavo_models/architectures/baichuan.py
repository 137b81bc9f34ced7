"""Baichuan 1 and 2: Llama with q, k and v in one tensor; the 13B with ALiBi; 2 with a head whose rows have length 1."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.heads import alibi_slopes
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

# No field of the config says so: each model has its own code, which vLLM distinguishes by the same sizes.
HIDDEN_OF_ROTARY = 4096
VOCABULARY_OF_2 = 125_696
LENGTH = {"max_position_embeddings": ("max_position_embeddings", "model_max_length")}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(LENGTH)
    c, heads = source.fields, source.heads()
    rotates = c.integer("hidden_size") == HIDDEN_OF_ROTARY or c.sequence("architectures") == ["BaiChuanForCausalLM"]
    if rotates:
        attention = heads.attention(rotary_from_hf(c, heads.dim))
    else:
        attention = heads.attention(None, alibi_slopes=alibi_slopes(heads.num))
    tensors = HF_LLAMA.updated(heads.packed("self_attn.W_pack"))
    if c.integer("vocab_size") == VOCABULARY_OF_2:
        tensors = replace(tensors, outer={**tensors.outer, "head": replace(at("lm_head"), unit_rows=True)})
    return llama.draft_from_hf(source, [attention] * source.num_layers(), tensors=tensors)


BAICHUAN = Architecture(("BaichuanForCausalLM", "BaiChuanForCausalLM"), from_hf)
