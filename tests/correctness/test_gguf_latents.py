"""Latent attention in a GGUF file computes what transformers computes, in both layouts that llama.cpp has had.

Older converters keep each head's keys and values in one matrix, whose blocks lie along the latent; newer ones in two, the
keys transposed. Blocks are of numbers that Q8_0 holds exactly, and float16 too, which transposed ones are widened to.
"""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from octavo_testing.compared_logits import check_logits
from octavo_testing.gguf_files import write_gguf

VOCABULARY, HIDDEN, INNER, LAYERS, HEADS = 128, 64, 96, 2, 4
NOPE, ROTARY, VALUE, RANK, Q_RANK = 32, 16, 24, 64, 32
STEP = 2.0**-9
NAMES = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
METADATA = {
    "block_count": LAYERS,
    "context_length": 256,
    "embedding_length": HIDDEN,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.kv_lora_rank": RANK,
    "attention.q_lora_rank": Q_RANK,
    "rope.dimension_count": ROTARY,
    "rope.freq_base": 10000.0,
}
OLDER = {"attention.head_count_kv": HEADS, "attention.key_length": NOPE + ROTARY, "attention.value_length": VALUE}
NEWER = {
    "attention.head_count_kv": 1,
    "attention.key_length": RANK + ROTARY,
    "attention.value_length": RANK,
    "attention.key_length_mla": NOPE + ROTARY,
    "attention.value_length_mla": VALUE,
}


def make_model() -> Any:
    torch.manual_seed(7)
    config = transformers.YoutuConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        kv_lora_rank=RANK,
        q_lora_rank=Q_RANK,
        qk_nope_head_dim=NOPE,
        qk_rope_head_dim=ROTARY,
        v_head_dim=VALUE,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if "kv_b_proj" in name:
                codes = rng.integers(-127, 128, parameter.shape)
                heads = codes.reshape(HEADS, NOPE + VALUE, RANK)
                heads[:, :, ::32] = heads[:, 0] = 127  # the largest of each block, whichever way it lies
                parameter.copy_(torch.from_numpy(codes.astype(np.float32) * STEP))
    return model


def arrays_of(model: torch.nn.Module, *, newer: bool, blocks: bool) -> dict[str, Any]:
    def stored(tensor: torch.Tensor) -> Any:
        values = tensor.contiguous().numpy()
        kind = gguf.GGMLQuantizationType.Q8_0
        return (gguf.quants.quantize(values, kind), kind) if blocks else values

    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    arrays: dict[str, Any] = {
        "token_embd.weight": state["model.embed_tokens.weight"].numpy(),
        "output_norm.weight": state["model.norm.weight"].numpy(),
    }
    for i in range(LAYERS):
        prefix = f"model.layers.{i}."
        for name, tensor in state.items():
            module, _, parameter = name.removeprefix(prefix).rpartition(".")
            if name.startswith(prefix) and module in NAMES:
                arrays[f"blk.{i}.{NAMES[module]}.{parameter}"] = tensor.numpy()
        both = state[f"{prefix}self_attn.kv_b_proj.weight"]
        if newer:
            keys, values = both.view(HEADS, NOPE + VALUE, RANK).split([NOPE, VALUE], 1)
            arrays[f"blk.{i}.attn_k_b.weight"] = stored(keys.transpose(1, 2))
            arrays[f"blk.{i}.attn_v_b.weight"] = stored(values)
        else:
            arrays[f"blk.{i}.attn_kv_b.weight"] = stored(both)
    return arrays


@pytest.mark.parametrize("blocks", [False, True], ids=["plain", "q8_0"])
@pytest.mark.parametrize("newer", [False, True], ids=["older", "newer"])
def test_latent_attention_in_a_gguf_file_computes_what_transformers_computes(newer, blocks, executor_name, tmp_path):
    model = make_model()
    metadata = {f"deepseek2.{key}": value for key, value in (METADATA | (NEWER if newer else OLDER)).items()}
    arrays = arrays_of(model, newer=newer, blocks=blocks)
    path = write_gguf(tmp_path / "model.gguf", arrays, metadata, "deepseek2")
    check_logits(path, executor_name, lambda ids: model(torch.tensor([ids])).logits[0], VOCABULARY)
