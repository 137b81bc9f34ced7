"""A mixture of experts in a GGUF file computes what transformers computes, plain and with experts in blocks.

GGUF keeps the experts of a layer in one tensor with three axes, and the gate of a shared expert as a vector.
"""

from __future__ import annotations

from typing import Any

import gguf
import pytest
import torch
import transformers
from octavo_testing.compared_logits import check_logits
from octavo_testing.gguf_files import write_gguf

VOCABULARY, HIDDEN, INNER, EXPERTS, SHARED, LAYERS = 128, 64, 32, 5, 96, 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
Q8_0 = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture(scope="module")
def model():
    """Qwen 2 with experts that Q8_0 holds exactly."""
    torch.manual_seed(7)
    config = transformers.Qwen2MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
        moe_intermediate_size=INNER,
        shared_expert_intermediate_size=SHARED,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if ".experts." in name:
                blocks = gguf.quants.quantize(parameter.numpy(), Q8_0)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, Q8_0)))
    return model


def arrays_of(model: torch.nn.Module, *, blocks: bool) -> dict[str, Any]:
    def stored(tensor: torch.Tensor) -> Any:
        values = tensor.contiguous().numpy()
        return (gguf.quants.quantize(values, Q8_0), Q8_0) if blocks else values

    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    arrays: dict[str, Any] = {
        "token_embd.weight": state["model.embed_tokens.weight"].numpy(),
        "output_norm.weight": state["model.norm.weight"].numpy(),
        "output.weight": state["lm_head.weight"].numpy(),
    }
    for i in range(LAYERS):
        prefix = f"model.layers.{i}."
        for name, tensor in state.items():
            module, _, parameter = name.removeprefix(prefix).rpartition(".")
            if name.startswith(prefix) and module in NAMES:
                array = tensor[0] if module == "mlp.shared_expert_gate" else tensor
                arrays[f"blk.{i}.{NAMES[module]}.{parameter}"] = array.numpy()
        gate, up = state[f"{prefix}mlp.experts.gate_up_proj"].chunk(2, dim=1)
        arrays[f"blk.{i}.ffn_gate_exps.weight"] = stored(gate)
        arrays[f"blk.{i}.ffn_up_exps.weight"] = stored(up)
        arrays[f"blk.{i}.ffn_down_exps.weight"] = stored(state[f"{prefix}mlp.experts.down_proj"])
    return arrays


METADATA = {
    "block_count": LAYERS,
    "context_length": 256,
    "embedding_length": HIDDEN,
    "feed_forward_length": INNER,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000.0,
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": INNER,
    "expert_shared_feed_forward_length": SHARED,
}


@pytest.mark.parametrize("blocks", [False, True], ids=["plain", "q8_0"])
def test_a_mixture_in_a_gguf_file_computes_what_transformers_computes(model, blocks, executor_name, tmp_path):
    metadata = {f"qwen2moe.{key}": value for key, value in METADATA.items()}
    path = write_gguf(tmp_path / "model.gguf", arrays_of(model, blocks=blocks), metadata, "qwen2moe")
    check_logits(path, executor_name, lambda ids: model(torch.tensor([ids])).logits[0], VOCABULARY)
