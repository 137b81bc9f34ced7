"""GGUF files for tests, written by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from octavo_engine.weights.dummy import DummyCheckpoint
from octavo_models import from_gguf
from octavo_models.formats import FORMATS

HIDDEN, INNER, HEADS, KV_HEADS, VOCAB, LAYERS = 64, 96, 4, 2, 100, 2
HEAD_DIM = HIDDEN // HEADS


def write_gguf(
    path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, architecture: str = "llama"
) -> Path:
    """A GGUF file of `arrays` (numpy, or (quantized bytes, type)) and plain `metadata`."""
    writer = gguf.GGUFWriter(path, architecture)
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


# How files of llama.cpp mix formats, and more than that: neighbours of one input in different ones, in none, and alike.
MIXED_LAYERS = (
    {"attn_q": "q4_k", "attn_k": "q4_k", "attn_v": "q6_k", "attn_output": "q4_k"}
    | {"ffn_gate": "q4_0", "ffn_up": "q4_1", "ffn_down": "q8_0"},
    {"attn_q": "q5_0", "attn_k": "q8_0", "attn_v": "f16", "attn_output": "q5_1"}
    | {"ffn_gate": "q5_k", "ffn_up": "q6_k", "ffn_down": "q4_0"},
)
MIXED_HIDDEN, MIXED_INNER, MIXED_VOCAB = 256, 288, 301
PLAIN = {"f32": np.float32, "f16": np.float16}


def write_mixed_gguf(path: Path, embedding: str = "q6_k") -> Path:
    """A small Llama with a tied head whose matrices are random blocks of every format: eight heads, two KV heads.

    Its Q6_K blocks have scales that are denormal as f16, as most of those in published files are.

    Two ranks cut `o` inside of K's blocks of 256, and `down`, rows of 288, between no groups of 32.
    """
    shapes = {
        "attn_q": (256, MIXED_HIDDEN),
        "attn_k": (64, MIXED_HIDDEN),
        "attn_v": (64, MIXED_HIDDEN),
        "attn_output": (MIXED_HIDDEN, 256),
        "ffn_gate": (MIXED_INNER, MIXED_HIDDEN),
        "ffn_up": (MIXED_INNER, MIXED_HIDDEN),
        "ffn_down": (MIXED_HIDDEN, MIXED_INNER),
    }
    metadata = llama_metadata() | {
        "llama.embedding_length": MIXED_HIDDEN,
        "llama.feed_forward_length": MIXED_INNER,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
    }
    tensors = {
        "token_embd.weight": (embedding, (MIXED_VOCAB, MIXED_HIDDEN)),
        "output_norm.weight": ("f32", (MIXED_HIDDEN,)),
    }
    for i, formats in enumerate(MIXED_LAYERS):
        tensors |= {f"blk.{i}.{name}.weight": (format_, shapes[name]) for name, format_ in formats.items()}
        tensors |= {f"blk.{i}.{name}.weight": ("f32", (MIXED_HIDDEN,)) for name in ("attn_norm", "ffn_norm")}
    blocks = DummyCheckpoint(from_gguf(metadata | {"general.architecture": "llama"}, tensors))
    arrays = {}
    for name, (format_, shape) in tensors.items():
        data = np.frombuffer(blocks.read(name), np.uint8).reshape(*shape[:-1], -1)
        kind = gguf.GGMLQuantizationType(FORMATS[format_].ggml_type)
        arrays[name] = data.view(PLAIN[format_]) if format_ in PLAIN else (data, kind)
    return write_gguf(path, arrays, metadata)
