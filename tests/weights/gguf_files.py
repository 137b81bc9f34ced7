"""GGUF files for tests, written by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, VOCAB, LAYERS = 64, 96, 4, 2, 100, 2
HEAD_DIM = HIDDEN // HEADS


def write_gguf(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> Path:
    """A GGUF file of `arrays` (numpy, or (quantized bytes, type)) and plain `metadata`, architecture llama."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_array(key, value)
    for name, array in arrays.items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[0], raw_dtype=array[1])
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_metadata() -> dict[str, Any]:
    return {
        "llama.block_count": LAYERS,
        "llama.context_length": 256,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": [f"token {i} é" for i in range(VOCAB)],
        "tokenizer.ggml.scores": [float(-i) for i in range(VOCAB)],
        "tokenizer.ggml.eos_token_id": 2,
    }


def llama_arrays(quantized: bool = True) -> dict[str, Any]:
    """A small Llama's tensors with random values; q is Q8_0 and o Q4_0 where `quantized`."""
    rng = np.random.default_rng(3)

    def matrix(rows: int, columns: int, kind: gguf.GGMLQuantizationType | None = None) -> Any:
        values = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
        if kind is None or not quantized:
            return values
        return gguf.quants.quantize(values, kind), kind

    q8, q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
    arrays: dict[str, Any] = {"token_embd.weight": matrix(VOCAB, HIDDEN, q8)}
    for i in range(LAYERS):
        layer = {
            "attn_norm": np.ones(HIDDEN, np.float32),
            "attn_q": matrix(HIDDEN, HIDDEN, q8),
            "attn_k": matrix(KV_HEADS * HEAD_DIM, HIDDEN, q8),
            "attn_v": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            "attn_output": matrix(HIDDEN, HIDDEN, q4),
            "ffn_norm": np.ones(HIDDEN, np.float32),
            "ffn_gate": matrix(INNER, HIDDEN, q4),
            "ffn_up": matrix(INNER, HIDDEN, q4),
            "ffn_down": matrix(HIDDEN, INNER, q4),
        }
        arrays |= {f"blk.{i}.{name}.weight": array for name, array in layer.items()}
    arrays["output_norm.weight"] = np.ones(HIDDEN, np.float32)
    return arrays
