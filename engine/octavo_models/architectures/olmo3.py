"""OLMo 3: OLMo 2 with a window in three of four layers, which the scaling of the rotary embedding does not reach."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import olmo2
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

THETA = 500_000.0
WINDOW = 4096


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    full = olmo2.attention_from_hf(source, theta=THETA)
    local = rotary_from_hf(c, heads.dim, layer_type="sliding_attention", default_theta=THETA, scaled=False)
    sliding = replace(full, rotary=local, window=c.integer("sliding_window", WINDOW))
    local_layers = source.local_layers([(i + 1) % olmo2.PATTERN != 0 for i in range(count)])
    return olmo2.draft_from_hf(source, [sliding if local else full for local in local_layers])


OLMO3 = Architecture(("Olmo3ForCausalLM",), from_hf)
