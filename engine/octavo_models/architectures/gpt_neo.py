"""GPT-Neo: GPT-2 with scores that are not scaled, a window in every other layer, and a bias for o alone in attention."""

from __future__ import annotations

from collections.abc import Sequence

from octavo_models.architecture import Architecture
from octavo_models.architectures import gpt2
from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

NAMES = {
    "num_attention_heads": ("num_heads",),
    "num_hidden_layers": ("num_layers",),
    "n_inner": ("intermediate_size",),
}
HF_GPT_NEO = gpt2.tensor_map(transposed=False).updated(
    {
        "q": at("attn.attention.q_proj"),
        "k": at("attn.attention.k_proj"),
        "v": at("attn.attention.v_proj"),
        "o": at("attn.attention.out_proj"),
    }
)


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    window = c.integer("window_size", 256)
    attentions = [
        heads.attention(None, scale=1.0, window=window if kind == "local" else None, o_bias=True)
        for kind in _kinds(c, source.num_layers())
    ]
    return gpt2.draft_from_hf(source, attentions, HF_GPT_NEO, activation="gelu_new")


def _kinds(c: Fields, count: int) -> Sequence[str]:
    """Each layer's kind, "global" or "local". `attention_types` lists patterns, and how often each is repeated."""
    kinds: list[str] = []
    for entry in c.sequence("attention_types") or [[["global", "local"], count // 2]]:
        pattern, times = entry if isinstance(entry, list | tuple) and len(entry) == 2 else ((), 0)
        plausible = isinstance(pattern, list | tuple) and isinstance(times, int) and 0 < times <= count
        if plausible and len(pattern) * times <= count:
            kinds += [*pattern] * times
    if len(kinds) != count or any(kind not in ("global", "local") for kind in kinds):
        raise c.error("attention_types", f"must name global or local for each of {count} layers")
    return kinds


GPT_NEO = Architecture(("GPTNeoForCausalLM",), from_hf)
