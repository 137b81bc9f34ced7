"""GPT BigCode (SantaCoder, StarCoder): GPT-2 with one KV head, and matrices that are not stored transposed."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import gpt2
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft

NAMES = {**gpt2.NAMES, "num_key_value_heads": ("n_head",)}  # `multi_query` alone decides


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    heads = replace(heads, num_kv=1 if c.boolean("multi_query", True) else heads.num)
    scale = heads.dim**-0.5 if c.boolean("scale_attn_weights", True) else 1.0
    attention = heads.attention(None, scale=scale, qkv_bias=True, o_bias=True)
    tensors = gpt2.tensor_map(transposed=False).updated(heads.packed("attn.c_attn", groups=heads.num_kv))
    return gpt2.draft_from_hf(source, [attention] * source.num_layers(), tensors, activation="gelu_pytorch_tanh")


GPT_BIGCODE = Architecture(("GPTBigCodeForCausalLM",), from_hf, "starcoder", gpt2.from_gguf)
