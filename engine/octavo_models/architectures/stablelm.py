"""StableLM: Llama with LayerNorm and a rotary embedding of a part of each head. The 12B has its halves side by side."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Layer, Mlp, Norm
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

NAMES = {  # the second ones are those of the first models, which transformers did not know yet
    "layer_norm_eps": ("layer_norm_eps", "norm_eps"),
    "partial_rotary_factor": ("partial_rotary_factor", "rope_pct"),
}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    norm = source.layer_norm("layer_norm_eps")
    attention = heads.attention(
        rotary_from_hf(c, heads.dim, default_fraction=0.25),
        qkv_bias=c.boolean("use_qkv_bias", False),
        **_qk_norm(norm, c.boolean("qk_layernorm", False)),
    )
    parallel = c.boolean("use_parallel_residual", False)
    layer = _layer(attention, llama.mlp_from_hf(source), norm, parallel=parallel)
    tensors = HF_LLAMA.updated(
        {
            "q_norm": at(*(f"self_attn.q_layernorm.norms.{head}" for head in range(heads.num))),
            "k_norm": at(*(f"self_attn.k_layernorm.norms.{head}" for head in range(heads.num_kv))),
        }
    )
    return source.draft([layer] * source.num_layers(), norm, tensors)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    attention = heads.attention(
        rotary_from_gguf(m, heads.dim),
        qkv_bias=source.has_bias("q", GGUF_TENSORS),
        **_qk_norm(norm, source.has("q_norm", GGUF_TENSORS)),
    )
    parallel = not source.has("pre_mlp_norm", GGUF_TENSORS)
    layer = _layer(attention, Mlp(m.integer("feed_forward_length")), norm, parallel=parallel)
    return source.draft([layer] * source.num_layers(), GGUF_TENSORS, norm)


def _qk_norm(norm: Norm, present: bool) -> dict[str, object]:
    return {"qk_norm": replace(norm, bias=False), "qk_norm_span": "each_head"} if present else {}


def _layer(attention: Attention, mlp: Mlp, norm: Norm, *, parallel: bool) -> Layer:
    return Layer(attention, mlp, norm, None, None if parallel else norm, None, parallel_residual=parallel)


STABLELM = Architecture(("StableLmForCausalLM", "StableLMEpochForCausalLM"), from_hf, "stablelm", from_gguf)
