"""BioGPT: OPT with GELU, and an embedding that is multiplied by the root of its width."""

from __future__ import annotations

import math
from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures.opt import HF_OPT, OFFSET
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.spec import LearnedPositions
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_BIOGPT = TensorMap(
    layers="biogpt.layers",
    outer={
        "embedding": at("biogpt.embed_tokens"),
        "positions": at("biogpt.embed_positions"),
        "final_norm": at("biogpt.layer_norm"),
        "head": at("output_projection"),
    },
    inner=HF_OPT.inner,
)


def from_hf(source: HfConfig) -> SpecDraft:
    c, norm = source.fields, Norm("layer", 1e-5, bias=True)
    attention = source.heads().attention(None, qkv_bias=True, o_bias=True)
    mlp = Mlp(c.integer("intermediate_size"), source.activation(default="gelu"), gated=False, bias=True)
    layer = Layer(attention, mlp, norm, None, norm, None)
    draft = source.draft([layer] * source.num_layers(), norm, HF_BIOGPT, tied_head=True)
    return replace(
        draft,
        positions=LearnedPositions(draft.max_position + OFFSET, OFFSET),
        embedding_multiplier=math.sqrt(draft.hidden_size) if c.boolean("scale_embedding", True) else 1.0,
    )


BIOGPT = Architecture(("BioGptForCausalLM",), from_hf)
