"""A GGUF file of every format, its embedding in each of them, computes what transformers computes with the same weights."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers
from octavo_testing.deep import DEEP
from octavo_testing.engine_runs import engine_config, generate, request, running_core
from octavo_testing.gguf_files import MIXED_HIDDEN, MIXED_INNER, MIXED_LAYERS, MIXED_VOCAB, write_mixed_gguf

from octavo_engine.config import ModelConfig

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEADS = {"attn_q": 8, "attn_k": 2}
EMBEDDINGS = ("q8_0", "q4_k", "q6_k", *(("q4_0", "q4_1", "q5_0", "q5_1", "q5_k", "f16") if DEEP else ()))


def in_transformers(path):
    """The file's model, dequantized by the gguf package."""
    config = transformers.LlamaConfig(
        vocab_size=MIXED_VOCAB,
        hidden_size=MIXED_HIDDEN,
        intermediate_size=MIXED_INNER,
        num_hidden_layers=len(MIXED_LAYERS),
        num_attention_heads=HEADS["attn_q"],
        num_key_value_heads=HEADS["attn_k"],
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        max_position_embeddings=256,
    )
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        *layer, last = tensor.name.removesuffix(".weight").removeprefix("blk.").split(".")
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if last in HEADS:
            pairs = rows.reshape(HEADS[last], rows.shape[0] // HEADS[last] // 2, 2, -1)
            rows = pairs.swapaxes(1, 2).reshape(rows.shape)
        name = NAMES[last] if not layer else f"model.layers.{layer[0]}.{NAMES[last]}"
        state[f"{name}.weight"] = torch.from_numpy(rows.copy())
    model = transformers.LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (set(missing), unexpected) == ({"lm_head.weight"}, [])
    model.tie_weights()
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("auto", 0.05)])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_logprobs_equal_transformers(embedding, dtype, tolerance, executor_name, tmp_path):
    """Log-probabilities of a prompt and of what follows it agree, whatever format a row of the embedding is widened
    from.

    As stored, activations are rounded to bytes or bfloat16; an embedding of zeros would be wrong by 0.3.
    """
    path = write_mixed_gguf(tmp_path / "mixed.gguf", embedding)
    model = ModelConfig(model=str(path), served_model_names=("mixed",), dtype=dtype)
    prompt = [7, 255, 300, 0, 41, 128, 99]
    with running_core(engine_config(model, executor_name)) as core:
        result = generate(core, [request("r", prompt, 5, prompt_logprobs=0, logprobs=0)])["r"]
    assert result.error is None
    ids = prompt + result.tokens
    with torch.inference_mode():
        expected = in_transformers(path)(torch.tensor([ids])).logits[0].log_softmax(-1)
    likely = torch.tensor([float(row[token]) for row, token in zip(expected, ids[1:], strict=False)])
    got = [entry.logprob for entry in (*(result.prompt_logprobs or [])[1:], *result.logprobs)]
    assert got == pytest.approx(likely.tolist(), abs=tolerance)
    assert float(likely.std()) > 4 * tolerance, "the comparison would not tell the model from any other"
