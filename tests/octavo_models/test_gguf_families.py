"""GGUF files of a family, as llama.cpp writes them, describe the same decoder as the family's config.

Keys and tensors' names are those of llama.cpp; the latter are compared with the gguf package's own list.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import accepting, tried
from untrusted_values import JUNK, NUMBERS, exercise

from octavo_models import InvalidConfigError, ModelError, ModelSpec, UnsupportedModelError, from_gguf, from_hf_config
from octavo_models.layers import Experts
from octavo_models.tensors import Unpermute

HIDDEN, INNER, HEADS, KV_HEADS, DIM, LAYERS = 64, 96, 4, 2, 16, 4
BASE = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": DIM,
    "num_hidden_layers": LAYERS,
    "vocab_size": 100,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
KEYS = {
    "block_count": LAYERS,
    "context_length": 2048,
    "embedding_length": HIDDEN,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": DIM,
    "attention.value_length": DIM,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
EXPERT_KEYS = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 32}
GROUPED = EXPERTS | {
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
GROUPED_KEYS = EXPERT_KEYS | {
    "expert_shared_count": 2,
    "leading_dense_block_count": 1,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
    "expert_gating_func": 2,
}
LOCAL = memoryview(bytes([1, 1, 1, 0])).cast("?")  # the layers with a window, as gguf_header reads a list of booleans
# GGUF's architecture → class, fields and keys beyond the common ones.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "phi3": ("Phi3", {"sliding_window": 512}, {"attention.sliding_window": 512}),
    "gemma": ("Gemma", {"hidden_act": "gelu"}, {}),
    "gemma2": (
        "Gemma2",
        {"query_pre_attn_scalar": DIM, "sliding_window": 512, "attn_logit_softcapping": 40.0},
        {"attention.sliding_window": 512, "attn_logit_softcapping": 40.0, "final_logit_softcapping": 30.0},
    ),
    "chatglm": ("Glm", {}, {"rope.dimension_count": DIM // 2}),
    "glm4": ("Glm4", {"attention_bias": False}, {"rope.dimension_count": DIM // 2}),
    "granite": (
        "Granite",
        {"attention_multiplier": 0.5, "embedding_multiplier": 12.0, "residual_multiplier": 0.25, "logits_scaling": 8.0},
        {"attention.scale": 0.5, "embedding_scale": 12.0, "residual_scale": 0.25, "logit_scale": 8.0},
    ),
    "granitemoe": (
        "GraniteMoeShared",
        {"attention_multiplier": 0.5, "num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
        EXPERT_KEYS
        | {"attention.scale": 0.5, "expert_feed_forward_length": INNER, "expert_shared_feed_forward_length": 48},
    ),
    "llama": (
        "Mixtral",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None},
        {"expert_count": 6, "expert_used_count": 2},
    ),
    "qwen2moe": (
        "Qwen2Moe",
        EXPERTS | {"num_experts": 6, "shared_expert_intermediate_size": 48},
        EXPERT_KEYS | {"expert_shared_feed_forward_length": 48},
    ),
    "qwen3moe": ("Qwen3Moe", EXPERTS | {"num_experts": 6, "norm_topk_prob": True}, EXPERT_KEYS),
    "olmo2": (
        "Olmo3",
        {"sliding_window": 512, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25}},
        {
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": LOCAL,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.attn_factor": 1.25 / 1.138629436111989,  # llama.cpp multiplies by 0.1 log(factor) + 1
        },
    ),
    "olmoe": (
        "Olmoe",
        {"num_experts": 6, "num_experts_per_tok": 2, "intermediate_size": INNER},
        {"expert_count": 6, "expert_used_count": 2},
    ),
    "exaone4": (
        "Exaone4",
        {"sliding_window": 512},
        {"attention.sliding_window": 512, "attention.sliding_window_pattern": LOCAL},
    ),
    "seed_oss": ("SeedOss", {}, {}),
    "hunyuan-dense": ("HunYuanDenseV1", {}, {}),
    "hunyuan-moe": (
        "HunYuanMoEV1",
        {"num_experts": 6, "moe_topk": 2, "moe_intermediate_size": 32},
        EXPERT_KEYS | {"expert_shared_feed_forward_length": INNER},
    ),
    "ernie4_5": ("Ernie4_5", {}, {}),
    "ernie4_5-moe": (
        "Ernie4_5_Moe",
        {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 2},
        EXPERT_KEYS
        | {
            "expert_shared_feed_forward_length": 64,
            "leading_dense_block_count": 1,
            "interleave_moe_layer_step": 1,
        },
    ),
    "arcee": ("Arcee", {}, {}),
    "dots1": ("Dots1", GROUPED | {"sliding_window": None}, GROUPED_KEYS),
    "glm4moe": (
        "Glm4Moe",
        GROUPED | {"attention_bias": True},
        GROUPED_KEYS | {"block_count": LAYERS + 1, "nextn_predict_layers": 1, "rope.dimension_count": DIM // 2},
    ),
    "minimax-m2": (
        "MiniMaxM2",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "rotary_dim": DIM // 2},
        EXPERT_KEYS | {"expert_feed_forward_length": INNER, "rope.dimension_count": DIM // 2, "expert_gating_func": 2},
    ),
}
NORM_AFTER_ATTENTION = {"seed_oss", "glm4moe"}  # that the MLP reads has the name of one on attention's output
PACKED = {"phi3", "chatglm", "glm4"}
NAMES = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
    "pre_attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "o": "attn_output",
    "post_attention_norm": "post_attention_norm",
    "pre_mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "post_mlp_norm": "post_ffw_norm",
    "router": "ffn_gate_inp",
    "experts_gate": "ffn_gate_exps",
    "experts_up": "ffn_up_exps",
    "experts_down": "ffn_down_exps",
    "shared_gate": "ffn_gate_shexp",
    "shared_up": "ffn_up_shexp",
    "shared_down": "ffn_down_shexp",
    "shared_router": "ffn_gate_inp_shexp",
}


def described(family: str, **changes: Any) -> ModelSpec:
    kind, fields, _ = FAMILIES[family]
    return from_hf_config(BASE | {"architectures": [f"{kind}ForCausalLM"]} | fields | changes)


def written(family: str, spec: ModelSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of the file that llama.cpp's converter makes of the model."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for weight in spec.weights:
        *before, last = weight.name.split(".")
        name, parameter = NAMES.get(last.removesuffix("_bias"), ""), "bias" if last.endswith("_bias") else "weight"
        shape = weight.shape
        if last == "router_correction":
            name, parameter = "exp_probs_b", "bias"
        if last == "pre_mlp_norm" and family in NORM_AFTER_ATTENTION:
            name = "post_attention_norm"
        if weight.groups > 1:
            shape = (weight.groups, shape[0] // weight.groups, *shape[1:])
        if last == "shared_router":
            shape = shape[1:]
        if family in PACKED and last == "gate":
            continue
        if family in PACKED and last == "up":
            shape = (2 * INNER, HIDDEN)
        tensors[".".join([*before, name, parameter]).replace("layers", "blk")] = ("f32", shape)
    if family == "phi3":
        for i in range(LAYERS):
            parts = [tensors.pop(f"blk.{i}.attn_{each}.weight")[1][0] for each in "qkv"]
            tensors[f"blk.{i}.attn_qkv.weight"] = ("f32", (sum(parts), HIDDEN))
    return tensors


def metadata(family: str, **changes: Any) -> dict[str, Any]:
    keys = KEYS | FAMILIES[family][2] | changes
    return {"general.architecture": family} | {f"{family}.{key}": value for key, value in keys.items()}


def plain(spec: ModelSpec) -> list[Any]:
    """The layers with norms as the converters store them: Gemma's with 1 added."""

    def norm(value):
        return None if value is None else dataclasses.replace(value, offset=0.0)

    layers = []
    for layer in spec.layers:
        norms = ("pre_attention_norm", "post_attention_norm", "pre_mlp_norm", "post_mlp_norm")
        layers.append(dataclasses.replace(layer, **{name: norm(getattr(layer, name)) for name in norms}))
    return layers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_the_family_describes_the_decoder_of_its_config(family):
    expected = described(family)
    spec = from_gguf(metadata(family), written(family, expected))
    assert plain(spec) == plain(expected)
    assert {w.name: w.shape for w in spec.weights} == {w.name: w.shape for w in expected.weights}
    for name in ("embedding_multiplier", "residual_multiplier", "logits_multiplier", "logits_soft_cap"):
        assert getattr(spec, name) == pytest.approx(getattr(expected, name)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_tensors_are_those_that_llama_cpp_lists(family):
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    listed = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[architecture]}
    for name in written(family, described(family)):
        assert name.rpartition(".")[0].replace("blk.0.", "blk.{bid}.") in listed or "blk.0." not in name, name


def test_rows_that_pair_for_rotary_are_brought_into_order_where_the_converter_has_permuted_them():
    for family, permuted in (("granite", True), ("llama", True), ("arcee", True), ("glm4", False), ("ernie4_5", False)):
        spec = from_gguf(metadata(family), written(family, described(family)))
        weights = {weight.name: weight.transform for weight in spec.weights}
        assert weights["layers.0.k"] == (Unpermute(KV_HEADS) if permuted else None)
        assert spec.layers[0].attention.rotary.interleaved == (not permuted)


def test_gate_and_up_of_all_experts_can_share_a_tensor():
    tensors = written("qwen3moe", described("qwen3moe"))
    for i in range(LAYERS):
        del tensors[f"blk.{i}.ffn_gate_exps.weight"], tensors[f"blk.{i}.ffn_up_exps.weight"]
        tensors[f"blk.{i}.ffn_gate_up_exps.weight"] = ("f32", (6, 64, HIDDEN))
    spec = from_gguf(metadata("qwen3moe"), tensors)
    up = next(weight for weight in spec.weights if weight.name == "layers.3.experts_up")
    assert up.sources[0].rows == dataclasses.replace(up.sources[0].rows, first=32, count=32, of=64, groups=6)


def test_long_factors_of_phi_3_come_with_their_temperature():
    keys = {"context_length": 8192, "rope.scaling.original_context_length": 2048, "rope.scaling.attn_factor": 1.19}
    tensors = written("phi3", described("phi3")) | {"rope_factors_long.weight": ("f32", (DIM // 2,))}
    factors = [1.0 + i for i in range(DIM // 2)]
    rotary = from_gguf(metadata("phi3", **keys), tensors, rope_factors=factors).layers[0].attention.rotary
    assert (rotary.scaling.factors, rotary.attention_factor()) == (tuple(factors), 1.19)
    with pytest.raises(InvalidConfigError, match=r"the values of tensor rope_factors_long\.weight are needed"):
        from_gguf(metadata("phi3", **keys), tensors)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("expert_used_count", 7, InvalidConfigError, "expert_used_count is 7; it must lie between 1 and 6"),
        ("expert_count", 1 << 20, InvalidConfigError, "expert_count is 1048576"),
        ("expert_group_count", 4, InvalidConfigError, "expert_group_count is 4, which does not divide expert_count, 6"),
        ("expert_gating_func", 9, UnsupportedModelError, "expert_gating_func is 9; supported are 1, 2, 3"),
        ("leading_dense_block_count", -1, InvalidConfigError, "leading_dense_block_count is -1"),
    ],
)
def test_a_bad_number_of_a_mixture_is_named(key, value, error, message):
    tensors = written("dots1", described("dots1"))
    with pytest.raises(error, match=rf"dots1\.{message}"):
        from_gguf(metadata("dots1", **{key: value}), tensors)


@pytest.mark.parametrize("family", ["olmo2", "exaone4"])
def test_layers_with_a_window_are_listed_or_those_without_are_each_nth_one(family):
    def windows(pattern):
        keys = metadata(family, **{"attention.sliding_window_pattern": pattern})
        layers = from_gguf(keys, written(family, described(family))).layers
        return [layer.attention.window for layer in layers]

    assert windows([False, True, True, True]) == [None, 512, 512, 512]
    assert windows([True] * LAYERS) == [512] * LAYERS
    assert windows(2) == [512, None, 512, None]
    assert windows(None) == [512, 512, 512, None]
    with pytest.raises(InvalidConfigError, match="sliding_window_pattern has 3 elements; 4 are expected"):
        windows([True, True, False])
    with pytest.raises(InvalidConfigError, match="sliding_window_pattern must hold true or false for each of 4 layers"):
        windows([True, True, True, 7])


def test_layers_that_draft_tokens_are_left_out():
    spec = from_gguf(metadata("glm4moe"), written("glm4moe", described("glm4moe")))
    assert len(spec.layers) == LAYERS
    assert [isinstance(layer.mlp, Experts) for layer in spec.layers] == [False, True, True, True]


@accepting(0.01)
@tried(200)
@given(data=st.data())
def test_any_value_in_any_key_gives_a_spec_or_a_model_error(data):
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    keys = metadata(family)
    keys[data.draw(st.sampled_from(sorted(keys)))] = data.draw(NUMBERS | JUNK)
    try:
        exercise(from_gguf(keys, written(family, described(family))))
    except ModelError:
        return False
    return True
