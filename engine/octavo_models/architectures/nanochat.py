"""nanochat: norms without weights, of the embedding too; a plain MLP with a squared ReLU; capped logits."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.gemma2 import soft_cap
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

HF_NANOCHAT = HF_LLAMA.updated({"up": at("mlp.fc1"), "down": at("mlp.fc2")})
LOGITS_CAP = 15.0


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    norm, bias = replace(llama.rms_norm(source), weight=False), c.boolean("attention_bias", False)
    rotary = replace(rotary_from_hf(c, heads.dim), reversed=True)
    attention = heads.attention(rotary, qk_norm=norm, qk_norm_after_rotary=True, qkv_bias=bias, o_bias=bias)
    mlp = Mlp(c.integer("intermediate_size"), source.activation(default="relu2"), gated=False)
    draft = llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count, norm=norm, tensors=HF_NANOCHAT)
    cap = soft_cap(c, "final_logit_softcapping", LOGITS_CAP)
    return replace(draft, embedding_norm=norm, logits_soft_cap=cap)


NANOCHAT = Architecture(("NanoChatForCausalLM",), from_hf)
