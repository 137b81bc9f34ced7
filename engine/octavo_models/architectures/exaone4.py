"""EXAONE 4: norms after both halves alone, norms of each head of q and k.

In models with a window, layers without one have no rotary embedding.
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, olmo2
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

PATTERN = 4  # each fourth layer has no window


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count, window = source.fields, source.heads(), source.num_layers(), source.window()
    attention = heads.attention(rotary_from_hf(c, heads.dim), qk_norm=llama.rms_norm(source, olmo2.EPS))
    if window is None:
        return olmo2.draft_from_hf(source, [attention] * count)
    # Beside layer_types the pattern may be a word, LLLG.
    pattern = PATTERN if c.has("layer_types") else c.integer("sliding_window_pattern", PATTERN)
    local_layers = source.local_layers([(i + 1) % pattern != 0 for i in range(count)])
    full, sliding = replace(attention, rotary=None), replace(attention, window=window)
    return olmo2.draft_from_hf(source, [sliding if local else full for local in local_layers])


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, window = source.num_layers(), gguf_parts.window(source)
    attention = gguf_parts.attention(source, qk_norm=source.norm())
    attentions = [attention] * count
    if window is not None:
        full, sliding = replace(attention, rotary=None), replace(attention, window=window)
        attentions = [sliding if local else full for local in gguf_parts.local_layers(source, PATTERN)]
    return gguf_parts.draft(source, attentions, [gguf_parts.mlp(source)] * count, before=False, after=True)


EXAONE4 = Architecture(("Exaone4ForCausalLM",), from_hf, "exaone4", from_gguf)
