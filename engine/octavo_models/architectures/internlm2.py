"""InternLM 2 and 2.5: Llama under other names, with q, k and v of each KV head's group in one tensor."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import GGUF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_INTERNLM2 = TensorMap(
    layers="model.layers",
    outer={"embedding": at("model.tok_embeddings"), "final_norm": at("model.norm"), "head": at("output")},
    inner={
        "pre_attention_norm": at("attention_norm"),
        "o": at("attention.wo"),
        "pre_mlp_norm": at("ffn_norm"),
        "gate": at("feed_forward.w1"),
        "up": at("feed_forward.w3"),
        "down": at("feed_forward.w2"),
    },
)


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    bias = c.boolean("bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    mlp = Mlp(c.integer("intermediate_size"), source.activation())
    tensors = HF_INTERNLM2.updated(heads.packed("attention.wqkv", groups=heads.num_kv))
    return llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count, tensors=tensors)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    """The converter takes q, k and v apart."""
    count, attention = source.num_layers(), gguf_parts.attention(source, GGUF_LLAMA)
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, GGUF_LLAMA)


INTERNLM2 = Architecture(("InternLM2ForCausalLM",), from_hf, "internlm2", from_gguf)
