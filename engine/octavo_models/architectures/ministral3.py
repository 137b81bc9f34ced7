"""Ministral 3: Mistral with a factor on the query that grows with its position."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.layers import QueryScaling
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads(HEAD_DIM)
    rope = Fields(c.mapping("rope_parameters") or c.mapping("rope_scaling") or {})
    scaling = None
    if rope.has("llama_4_scaling_beta"):
        period = rope.integer("original_max_position_embeddings")
        scaling = QueryScaling(rope.number("llama_4_scaling_beta", exclusive=False), period)
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=source.window(), query_scaling=scaling)
    norm = llama.rms_norm(source, 1e-5)
    return llama.draft_from_hf(source, [attention] * source.num_layers(), norm=norm)


MINISTRAL3 = Architecture(("Ministral3ForCausalLM",), from_hf)
