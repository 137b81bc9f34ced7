"""Phi 3, Phi 4 and Phi-4-mini: Llama with q, k and v in one tensor, gate and up in another, and LongRoPE."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, packed


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=source.window())
    tensors = HF_LLAMA.updated(heads.packed("self_attn.qkv_proj") | packed_gate_up(c.integer("intermediate_size")))
    norm = llama.rms_norm(source, default_eps=1e-5)
    return llama.draft_from_hf(source, [attention] * source.num_layers(), norm=norm, tensors=tensors)


def packed_gate_up(
    intermediate_size: int, module: str = "mlp.gate_up_proj", *, shared: bool = False
) -> dict[LayerWeight, At]:
    """The entries of gate and up that one module holds together, gate first; of a `shared` expert's."""
    gate: LayerWeight = "shared_gate" if shared else "gate"
    up: LayerWeight = "shared_up" if shared else "up"
    return packed(module, (gate, intermediate_size), (up, intermediate_size))


PHI3 = Architecture(("Phi3ForCausalLM",), from_hf)
