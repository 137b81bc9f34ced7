"""SmolLM3: Llama with layers that have no rotary embedding."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

NO_ROPE_INTERVAL = 4  # each fourth layer has no rotary embedding
THETA = 2_000_000.0


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    bias = c.boolean("attention_bias", False)
    rotary = rotary_from_hf(c, heads.dim, default_theta=THETA)
    rotates = rotates_from_hf(source)
    slides = c.boolean("use_sliding_window", False) and c.has("sliding_window")
    window = c.integer("sliding_window") if slides else None
    local_layers = source.local_layers([slides and not r for r in rotates])
    attentions = [
        heads.attention(
            rotary if r else None,
            window=window if local else None,
            qkv_bias=bias,
            o_bias=bias,
        )
        for r, local in zip(rotates, local_layers, strict=True)
    ]
    return llama.draft_from_hf(source, attentions, tied_head=True)


def rotates_from_hf(source: HfConfig) -> list[bool]:
    """True for each layer that has a rotary embedding; the config marks those with 1."""
    c, count = source.fields, source.num_layers()
    interval = c.integer("no_rope_layer_interval", NO_ROPE_INTERVAL)
    listed = c.sequence("no_rope_layers")
    if listed and (len(listed) < count or any(flag not in (0, 1) for flag in listed)):
        raise c.error("no_rope_layers", f"must hold a 0 (no rotary) or a 1 for each of {count} layers")
    return [bool(flag) for flag in listed[:count]] if listed else [(i + 1) % interval != 0 for i in range(count)]


def from_gguf(source: GgufMetadata) -> SpecDraft:
    return llama.draft_from_gguf(source, [(i + 1) % NO_ROPE_INTERVAL != 0 for i in range(source.num_layers())])


SMOLLM3 = Architecture(("SmolLM3ForCausalLM",), from_hf, "smollm3", from_gguf)
