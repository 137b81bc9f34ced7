"""The common parts of families with multi-head latent attention: heads, ranks, rotary scaling and tensors' names."""

from __future__ import annotations

import math
from dataclasses import replace

from octavo_models.fields import MOST_HEADS, Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import even
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Latent, Rotary
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf, rotary_parameters, yarn_temperature
from octavo_models.tensors import At, LayerWeight, Rows, TensorMap, at

GGUF_NAMES = ("attn_q_a", "attn_q_a_norm", "attn_q_b", "attn_kv_a_mqa", "attn_kv_a_norm")
HF_NAMES = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm")


def from_hf(source: HfConfig, *, interleaved: bool = True, v_dim: int | None = None) -> Attention:
    """Attention in every layer alike; `interleaved` where the config is silent, `v_dim` where it names no `v_head_dim`.

    The norms' epsilon is no field of any config: all implementations take 1e-6.
    """
    c = source.fields
    num = c.integer("num_attention_heads", maximum=MOST_HEADS)
    num_kv = c.integer("num_key_value_heads", num)
    if num_kv != num:
        raise c.error("num_key_value_heads", f"is {num_kv}; with latent attention each of {num} heads has its own")
    rotary_dim = even(c, "qk_rope_head_dim", c.integer("qk_rope_head_dim"))
    bias = c.boolean("attention_bias", False)
    latent = Latent(
        c.integer("kv_lora_rank"),
        rotary_dim,
        c.integer("q_lora_rank") if c.has("q_lora_rank") else None,
        bias=bias,
    )
    rotary = rotary_from_hf(_whole(c), rotary_dim)
    return _attention(
        num,
        c.integer("qk_nope_head_dim"),
        c.integer("v_head_dim", v_dim),
        latent,
        replace(rotary, interleaved=c.boolean("rope_interleave", interleaved)),
        _mscale(c),
        bias,
    )


def hf_tensors(attention: Attention) -> dict[LayerWeight, At]:
    """The entries of the latent's weights, as Hugging Face checkpoints name them."""
    assert attention.latent is not None
    names = (f"self_attn.{name}" for name in HF_NAMES)
    return _entries(*names) | _keys_and_values("self_attn.kv_b_proj", attention, attention.latent)


def from_gguf(source: GgufMetadata, *, interleaved: bool = True) -> Attention:
    """The same of a GGUF file: older ones have the lengths of heads where newer ones have those of the latent."""
    m = source.fields
    num = m.integer("attention.head_count", maximum=MOST_HEADS)
    mla = "_mla" if m.has("attention.key_length_mla") else ""
    key = m.integer(f"attention.key_length{mla}")
    rotary_dim = even(m, "rope.dimension_count", m.integer("rope.dimension_count"))
    if rotary_dim >= key:
        raise m.error("rope.dimension_count", f"is {rotary_dim}; a head of {key} needs more than what rotates")
    q_rank = m.integer("attention.q_lora_rank", 0, minimum=0)
    latent = Latent(m.integer("attention.kv_lora_rank"), rotary_dim, q_rank or None, source.norm())
    rotary = rotary_from_gguf(m, rotary_dim, factors=source.rope_factors)
    mscale = 1.0
    if rotary.scaling is not None and rotary.scaling.kind == "yarn":
        # llama.cpp takes yarn's temperature off the rotary part alone, and puts the file's own on the whole product.
        multiplier = m.number("rope.scaling.yarn_log_multiplier", 0.0, exclusive=False)
        mscale = 1.0 + multiplier * math.log(max(1.0, rotary.scaling.factor))
        rotary = replace(rotary, scaling=replace(rotary.scaling, attention_factor=1.0))
    return _attention(
        num,
        key - rotary_dim,
        m.integer(f"attention.value_length{mla}"),
        latent,
        replace(rotary, interleaved=interleaved),
        mscale,
    )


def gguf_tensors(source: GgufMetadata, attention: Attention, tensors: TensorMap = GGUF_TENSORS) -> TensorMap:
    """`tensors` with those of latent attention: keys and values in two, keys transposed, or in one as older files have."""
    assert attention.latent is not None
    own = _entries(*GGUF_NAMES)
    if "blk.0.attn_kv_b.weight" in source.tensors:
        own |= _keys_and_values("attn_kv_b", attention, attention.latent)
    else:
        own |= {"k_b": at("attn_k_b"), "v_b": at("attn_v_b")}
    return tensors.updated(own)


def _attention(
    num: int, nope: int, v_dim: int, latent: Latent, rotary: Rotary, mscale: float, o_bias: bool = False
) -> Attention:
    dim = nope + latent.rotary_dim
    return Attention(num, 1, dim, v_dim, mscale * mscale / math.sqrt(dim), rotary, latent=latent, o_bias=o_bias)


def _entries(q_a: str, q_a_norm: str, q_b: str, kv_a: str, kv_a_norm: str) -> dict[LayerWeight, At]:
    return {
        "q_a": at(q_a),
        "q_a_norm": at(q_a_norm),
        "q_b": at(q_b),
        "kv_a": at(kv_a),
        "kv_a_norm": at(kv_a_norm),
    }


def _keys_and_values(module: str, attention: Attention, latent: Latent) -> dict[LayerWeight, At]:
    """k_b and v_b of one module that has each head's rows of both together."""
    nope, num = attention.head_dim_k - latent.rotary_dim, attention.num_heads
    of = nope + attention.head_dim_v
    keys = at(module, rows=Rows(0, nope, of, num))
    return {"k_b": replace(keys, by_head=True), "v_b": at(module, rows=Rows(nope, attention.head_dim_v, of, num))}


def _whole(c: Fields) -> Fields:
    """The config without the part of a head that rotates, which `qk_rope_head_dim` says (Mistral 4 says it twice)."""
    parameters = rotary_parameters(c)
    if parameters is None or "partial_rotary_factor" not in parameters:
        return c
    rest = {key: value for key, value in parameters.items() if key != "partial_rotary_factor"}
    return replace(c, values={**c.values, "rope_parameters": rest})


def _mscale(c: Fields) -> float:
    """DeepSeek's factor on queries and keys alike where yarn lengthens a model."""
    fields = Fields(rotary_parameters(c) or {})
    if fields.text("rope_type", fields.text("type", "default")) == "default":
        return 1.0
    return yarn_temperature(fields.number("factor", 1.0), fields.number("mscale_all_dim", 0.0, exclusive=False))
