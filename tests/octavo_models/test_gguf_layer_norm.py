"""A GGUF file of a family with LayerNorm, learned positions or ALiBi describes the same decoder as its config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from octavo_testing.stored_weights import check_stored

from octavo_models import InvalidConfigError, from_gguf, from_hf_config
from octavo_models.tensors import Unpermute

HIDDEN, INNER, HEADS, VOCAB, LAYERS, LENGTH = 64, 256, 4, 100, 2, 128
HEAD_DIM = HIDDEN // HEADS

PLAIN_NAMES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": LENGTH,
    "vocab_size": VOCAB,
}
GPT2_NAMES = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": LENGTH, "vocab_size": VOCAB}
MPT_NAMES = {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": LENGTH, "vocab_size": VOCAB}
FALCON = PLAIN_NAMES | {"ffn_hidden_size": INNER}
QKV = ["attn_q", "attn_k", "attn_v"]
QKV_BIASES = ["attn_q+", "attn_k+", "attn_v+"]
GATED = ["ffn_gate", "ffn_up", "ffn_down"]
MLP_BIASES = ["ffn_up+", "ffn_down+"]
GPT2_BLOCK = ["attn_norm+", "attn_qkv+", "attn_output+", "ffn_norm+", *MLP_BIASES]


@dataclass(frozen=True)
class Case:
    """A file's tensors, `+` for one that has a bias, and its metadata, beside the config of the same model."""

    architecture: str
    hf_class: str
    config: dict[str, Any]
    block: list[str]
    outer: list[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    kv_heads: int = HEADS

    def shape(self, name: str) -> tuple[int, ...]:
        kv = self.kv_heads * HEAD_DIM
        shapes = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN),
            "attn_qkv": (HIDDEN + 2 * kv, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "attn_q_norm": (HEADS, HEAD_DIM),
            "attn_k_norm": (self.kv_heads, HEAD_DIM),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
            "token_embd": (VOCAB, HIDDEN),
            "output": (VOCAB, HIDDEN),
            "position_embd": (LENGTH, HIDDEN),
        }
        return shapes.get(name, (HIDDEN,))

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        names = [*self.outer, "token_embd", *(f"blk.{i}.{name}" for i in range(LAYERS) for name in self.block)]
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name in names:
            plain = name.removesuffix("+")
            shape = self.shape(plain.rpartition(".")[2])
            found[f"{plain}.weight"] = ("q8_0" if len(shape) == 2 and shape[-1] >= 32 else "f32", shape)
            if name != plain:
                found[f"{plain}.bias"] = ("f32", shape[:1])
        return found

    def keys(self) -> dict[str, Any]:
        keys = {
            "block_count": LAYERS,
            "context_length": LENGTH,
            "embedding_length": HIDDEN,
            "feed_forward_length": INNER,
            "attention.head_count": HEADS,
            "attention.head_count_kv": self.kv_heads,
            "attention.layer_norm_epsilon": 1e-5,
        } | self.metadata
        return {"general.architecture": self.architecture} | {f"{self.architecture}.{k}": v for k, v in keys.items()}


CASES = {
    "phi 2": Case(
        "phi2",
        "PhiForCausalLM",
        PLAIN_NAMES,
        ["attn_norm+", *QKV_BIASES, "attn_output+", *MLP_BIASES],
        ["output_norm+", "output+"],
        {"rope.dimension_count": 8},
    ),
    "phi 2, packed": Case(
        "phi2",
        "PhiForCausalLM",
        PLAIN_NAMES,
        ["attn_norm+", "attn_qkv+", "attn_output+", *MLP_BIASES],
        ["output_norm+", "output+"],
        {"rope.dimension_count": 8},
    ),
    "falcon 7b": Case(
        "falcon",
        "FalconForCausalLM",
        FALCON,
        ["attn_norm+", "attn_qkv", "attn_output", "ffn_up", "ffn_down"],
        ["output_norm+"],
        kv_heads=1,
    ),
    "falcon 40b": Case(
        "falcon",
        "FalconForCausalLM",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "tie_word_embeddings": False},
        ["attn_norm+", "attn_norm_2+", "attn_qkv", "attn_output", "ffn_up", "ffn_down"],
        ["output_norm+", "output"],
        kv_heads=2,
    ),
    "gpt neox": Case(
        "gptneox",
        "GPTNeoXForCausalLM",
        PLAIN_NAMES | {"use_parallel_residual": False},
        GPT2_BLOCK,
        ["output_norm+", "output"],
        {"rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "gpt 2": Case("gpt2", "GPT2LMHeadModel", GPT2_NAMES, GPT2_BLOCK, ["output_norm+", "position_embd"]),
    "starcoder": Case(
        "starcoder", "GPTBigCodeForCausalLM", GPT2_NAMES, GPT2_BLOCK, ["output_norm+", "position_embd"], kv_heads=1
    ),
    "bloom": Case(
        "bloom",
        "BloomForCausalLM",
        {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "seq_length": LENGTH, "vocab_size": VOCAB},
        GPT2_BLOCK,
        ["output_norm+", "token_embd_norm+"],
    ),
    "mpt": Case(
        "mpt",
        "MptForCausalLM",
        MPT_NAMES | {"attn_config": {"clip_qkv": 6.0, "alibi_bias_max": 16}},
        ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"],
        ["output_norm"],
        {"attention.clamp_kqv": 6.0, "attention.max_alibi_bias": 16.0},
    ),
    "starcoder 2": Case(
        "starcoder2",
        "Starcoder2ForCausalLM",
        PLAIN_NAMES | {"num_key_value_heads": 2},
        ["attn_norm+", *QKV_BIASES, "attn_output+", "ffn_norm+", *MLP_BIASES],
        ["output_norm+"],
        kv_heads=2,
    ),
    "stablelm": Case(
        "stablelm",
        "StableLmForCausalLM",
        PLAIN_NAMES | {"use_qkv_bias": True},
        ["attn_norm+", *QKV_BIASES, "attn_output", "ffn_norm+", *GATED],
        ["output_norm+", "output"],
        {"rope.dimension_count": 4},
    ),
    "stablelm 12b": Case(
        "stablelm",
        "StableLmForCausalLM",
        PLAIN_NAMES | {"use_parallel_residual": True, "qk_layernorm": True, "num_key_value_heads": 2},
        ["attn_norm+", *QKV, "attn_q_norm", "attn_k_norm", "attn_output", *GATED],
        ["output_norm+", "output"],
        {"rope.dimension_count": 4},
        kv_heads=2,
    ),
    "olmo": Case(
        "olmo",
        "OlmoForCausalLM",
        PLAIN_NAMES | {"clip_qkv": 8.0},
        [*QKV, "attn_output", *GATED],
        ["output"],
        {"attention.clamp_kqv": 8.0},
    ),
    "command r": Case(
        "command-r",
        "CohereForCausalLM",
        PLAIN_NAMES | {"use_qk_norm": True, "rope_theta": 8e6, "num_key_value_heads": 2},
        ["attn_norm", *QKV, "attn_q_norm", "attn_k_norm", "attn_output", *GATED],
        ["output_norm"],
        {"logit_scale": 0.0625, "rope.freq_base": 8e6, "rope.scaling.type": "none"},
        kv_heads=2,
    ),
    "command r7b": Case(
        "cohere2",
        "Cohere2ForCausalLM",
        PLAIN_NAMES | {"rope_theta": 5e4, "sliding_window": 32},
        ["attn_norm", *QKV, "attn_output", *GATED],
        ["output_norm"],
        {"logit_scale": 0.0625, "rope.freq_base": 5e4, "attention.sliding_window": 32},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_gguf_file_describes_the_decoder_of_its_config(name):
    case = CASES[name]
    found = from_gguf(case.keys(), case.tensors())
    expected = from_hf_config({"architectures": [case.hf_class]} | case.config)
    assert found.layers == expected.layers
    for part in ("final_norm", "embedding_norm", "positions", "head_bias", "tied_head", "logits_multiplier"):
        assert getattr(found, part) == getattr(expected, part)
    assert (found.hidden_size, found.vocab_size, found.max_position) == (HIDDEN, VOCAB, LENGTH)
    assert {w.name: w.shape for w in found.weights} == {w.name: w.shape for w in expected.weights}
    check_stored(found, {tensor: shape for tensor, (_, shape) in case.tensors().items()})


def test_norms_of_nemotron_are_stored_as_they_are_in_gguf_and_minus_1_on_hugging_face():
    block = ["attn_norm+", *QKV, "attn_output", "ffn_norm+", "ffn_up", "ffn_down"]
    keys = {"rope.dimension_count": 8}
    case = Case("nemotron", "NemotronForCausalLM", PLAIN_NAMES, block, ["output_norm+", "output"], keys)
    found = from_gguf(case.keys(), case.tensors())
    expected = from_hf_config({"architectures": [case.hf_class]} | case.config)
    assert found.layers[0].attention == expected.layers[0].attention
    assert found.layers[0].mlp == expected.layers[0].mlp
    assert (found.final_norm.offset, expected.final_norm.offset) == (0.0, 1.0)
    check_stored(found, {tensor: shape for tensor, (_, shape) in case.tensors().items()})


def test_the_second_norm_of_a_falcon_layer_is_that_of_attention():
    case = CASES["falcon 40b"]
    sources = {weight.name: weight.sources[0].tensor for weight in from_gguf(case.keys(), case.tensors()).weights}
    assert sources["layers.0.pre_attention_norm"] == "blk.0.attn_norm_2.weight"
    assert sources["layers.0.pre_mlp_norm"] == "blk.0.attn_norm.weight"


def test_rows_of_q_and_k_are_permuted_in_files_of_olmo_alone():
    def transforms(name: str) -> set[object]:
        return {weight.transform for weight in from_gguf(CASES[name].keys(), CASES[name].tensors()).weights}

    assert transforms("olmo") == {None, Unpermute(HEADS)}
    assert transforms("stablelm") == transforms("command r") == {None}


def test_a_missing_bias_is_named():
    case = CASES["starcoder 2"]
    tensors = case.tensors()
    del tensors["blk.1.ffn_up.bias"]
    with pytest.raises(InvalidConfigError, match=r"tensor blk\.1\.ffn_up\.bias is missing"):
        from_gguf(case.keys(), tensors)
