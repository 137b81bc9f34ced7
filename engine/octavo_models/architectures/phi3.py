"""Phi 3, Phi 4 and Phi-4-mini: Llama with q, k and v in one tensor, gate and up in another, and LongRoPE."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, TensorMap, packed


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


def from_gguf(source: GgufMetadata) -> SpecDraft:
    tensors, count = tensors_of_gguf(source), source.num_layers()
    attention = gguf_parts.attention(source, tensors, window=gguf_parts.window(source))
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, tensors)


def tensors_of_gguf(source: GgufMetadata) -> TensorMap:
    """The tensors of a file that has gate and up in the tensor that holds up elsewhere."""
    tensors = source.packed_if_stored(GGUF_TENSORS, source.heads())
    return tensors.updated(packed_gate_up(source.fields.integer("feed_forward_length"), "ffn_up"))


PHI3 = Architecture(("Phi3ForCausalLM",), from_hf, "phi3", from_gguf)
