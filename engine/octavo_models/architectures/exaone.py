"""EXAONE 3 and 3.5: Llama under other names."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_EXAONE = TensorMap(
    layers="transformer.h",
    outer={"embedding": at("transformer.wte"), "final_norm": at("transformer.ln_f"), "head": at("lm_head")},
    inner={
        "pre_attention_norm": at("ln_1"),
        "q": at("attn.attention.q_proj"),
        "k": at("attn.attention.k_proj"),
        "v": at("attn.attention.v_proj"),
        "o": at("attn.attention.out_proj"),
        "pre_mlp_norm": at("ln_2"),
        "gate": at("mlp.c_fc_0"),
        "up": at("mlp.c_fc_1"),
        "down": at("mlp.c_proj"),
    },
)
NAMES = {
    "num_hidden_layers": ("num_layers", "num_hidden_layers"),
    "rms_norm_eps": ("layer_norm_epsilon", "rms_norm_eps"),
    "hidden_act": ("activation_function", "hidden_act"),
}
THETA = 500_000.0


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim, default_theta=THETA), qkv_bias=bias, o_bias=bias)
    norm = llama.rms_norm(source, 1e-5)
    return llama.draft_from_hf(source, [attention] * source.num_layers(), norm=norm, tensors=HF_EXAONE)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count = source.num_layers()
    return gguf_parts.draft(source, [gguf_parts.attention(source)] * count, [gguf_parts.mlp(source)] * count)


EXAONE = Architecture(("ExaoneForCausalLM",), from_hf, "exaone", from_gguf, model_type="exaone")
