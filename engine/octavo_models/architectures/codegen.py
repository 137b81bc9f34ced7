"""CodeGen: GPT-J with q, v and k in one tensor, divided among the four devices that it was trained on."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import gpt2, gptj
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import packed

DEVICES = 4


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(gpt2.NAMES)
    c, heads = source.fields, source.heads()
    if heads.num % DEVICES:
        raise c.error("num_attention_heads", f"is {heads.num}, which {DEVICES} groups of packed heads do not divide")
    rows = heads.num * heads.dim
    tensors = packed("attn.qkv_proj", ("q", rows), ("v", rows), ("k", rows), groups=DEVICES)
    return gptj.draft_from_hf(source, heads, gptj.HF_GPTJ.updated(tensors))


CODEGEN = Architecture(("CodeGenForCausalLM",), from_hf)
