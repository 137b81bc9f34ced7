"""Ministral 3: Mistral with a factor on the query that grows with its position."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.layers import QueryScaling
from octavo_models.rotary import rotary_from_hf, rotary_parameters
from octavo_models.spec_draft import SpecDraft

HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads(HEAD_DIM)
    attention = heads.attention(
        rotary_from_hf(c, heads.dim), window=source.window(), query_scaling=query_scaling(source)
    )
    norm = llama.rms_norm(source, 1e-5)
    return llama.draft_from_hf(source, [attention] * source.num_layers(), norm=norm)


def query_scaling(source: HfConfig) -> QueryScaling | None:
    """The factor that the rotary parameters describe; None where they have none."""
    rope = Fields(rotary_parameters(source.fields) or {})
    if not rope.has("llama_4_scaling_beta"):
        return None
    period = rope.integer("original_max_position_embeddings")
    return QueryScaling(rope.number("llama_4_scaling_beta", exclusive=False), period)


MINISTRAL3 = Architecture(("Ministral3ForCausalLM",), from_hf)
