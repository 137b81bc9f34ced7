"""Latent attention as configs and GGUF files describe it: scales, routers, KV bytes, and both layouts of llama.cpp."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried
from published_latent import (
    DEEPSEEK_V2,
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V3,
    GLM_4_7_FLASH,
    KIMI_K2,
    MINICPM3_4B,
    PARAMETERS,
    YOUTU_LLM_2B,
)
from untrusted_values import JUNK, NUMBERS, exercise

from octavo_models import InvalidConfigError, ModelError, UnsupportedModelError, from_gguf, from_hf_config
from octavo_models.layers import Experts, Router
from octavo_models.partition import Place, kv_layout, part
from octavo_models.sharding import weights_on_gpu
from octavo_models.spec import ModelSpec
from octavo_models.tensors import TransposeHeads

MODULES = {
    "q": "attn_q",
    "q_a": "attn_q_a",
    "q_a_norm": "attn_q_a_norm",
    "q_b": "attn_q_b",
    "kv_a": "attn_kv_a_mqa",
    "kv_a_norm": "attn_kv_a_norm",
    "o": "attn_output",
    "pre_attention_norm": "attn_norm",
    "pre_mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "router": "ffn_gate_inp",
    "router_correction": "exp_probs_b",
    "experts_gate": "ffn_gate_exps",
    "experts_up": "ffn_up_exps",
    "experts_down": "ffn_down_exps",
    "shared_gate": "ffn_gate_shexp",
    "shared_up": "ffn_up_shexp",
    "shared_down": "ffn_down_shexp",
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
}
FILES = {
    "deepseek2 of V2": ("deepseek2", DEEPSEEK_V2),
    "deepseek2 of V2-Lite": ("deepseek2", DEEPSEEK_V2_LITE),
    "deepseek2 of V3": ("deepseek2", DEEPSEEK_V3),
    "deepseek2 of Kimi K2": ("deepseek2", KIMI_K2),
    "deepseek2 of GLM-4.7-Flash": ("deepseek2", GLM_4_7_FLASH | {"rms_norm_eps": 1e-6}),
    "deepseek2 of Youtu": ("deepseek2", YOUTU_LLM_2B),
    "minicpm3": ("minicpm3", MINICPM3_4B | {"rope_scaling": None, "rms_norm_eps": 1e-6}),
}
NEWER = [name for name in FILES if name != "minicpm3"]


def short(config: dict[str, Any]) -> dict[str, Any]:
    """Four layers of few experts: shapes say the same of a small model."""
    fewer = {"n_routed_experts": 16} if "n_routed_experts" in config else {}
    return config | {"num_hidden_layers": 4, "torch_dtype": "float32", "vocab_size": 100} | fewer


def metadata(name: str, config: dict[str, Any], *, newer: bool) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes of the config."""
    rope, v = config["qk_rope_head_dim"], config.get("v_head_dim", 64)
    key = config["qk_nope_head_dim"] + rope
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": 1 if newer else config["num_attention_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.kv_lora_rank": config["kv_lora_rank"],
        "attention.key_length": config["kv_lora_rank"] + rope if newer else key,
        "attention.value_length": config["kv_lora_rank"] if newer else v,
        "rope.dimension_count": rope,
        "rope.freq_base": float(config.get("rope_theta", 10000)),
    }
    if newer:
        keys |= {"attention.key_length_mla": key, "attention.value_length_mla": v}
    if config["q_lora_rank"]:
        keys |= {"attention.q_lora_rank": config["q_lora_rank"]}
    if "n_routed_experts" in config:
        keys |= {
            "expert_count": config["n_routed_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "expert_shared_count": config["n_shared_experts"],
            "leading_dense_block_count": config["first_k_dense_replace"],
            "expert_weights_scale": config["routed_scaling_factor"],
            "expert_weights_norm": config["norm_topk_prob"],
        }
        if config["topk_method"] == "noaux_tc":
            keys |= {"expert_gating_func": 2}
        if config["topk_method"] != "greedy":
            keys |= {"expert_group_count": config["n_group"], "expert_group_used_count": config["topk_group"]}
    if scaling := config.get("rope_scaling"):
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling["factor"]),
            "rope.scaling.original_context_length": scaling["original_max_position_embeddings"],
            "rope.scaling.yarn_log_multiplier": 0.1 * scaling["mscale_all_dim"],
            "rope.scaling.yarn_beta_fast": float(scaling["beta_fast"]),
        }
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in keys.items()}


def written(spec: ModelSpec, *, newer: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The file's tensors: keys and values in one, as older converters have it, or in two."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for weight in spec.weights:
        *before, last = weight.name.split(".")
        a = spec.layers[weight.layer or 0].attention
        assert a.latent is not None
        at, shape = ".".join(["blk", *before[1:]]) if before else "", weight.shape
        if last in {"k_b", "v_b"}:
            nope = a.head_dim_k - a.latent.rotary_dim
            if newer:
                shape = (
                    (a.num_heads, a.latent.rank, nope) if last == "k_b" else (a.num_heads, a.head_dim_v, a.latent.rank)
                )
                tensors[f"{at}.attn_{last}.weight"] = ("f32", shape)
            else:
                tensors[f"{at}.attn_kv_b.weight"] = ("f32", (a.num_heads * (nope + a.head_dim_v), a.latent.rank))
            continue
        if weight.groups > 1:
            shape = (weight.groups, shape[0] // weight.groups, *shape[1:])
        module = MODULES[last] if not at else f"{at}.{MODULES[last]}"
        tensors[f"{module}.{'bias' if last == 'router_correction' else 'weight'}"] = ("f32", shape)
    return tensors


def files() -> list[Any]:
    return [(name, False) for name in FILES] + [(name, True) for name in NEWER]


@pytest.mark.parametrize(("name", "newer"), files())
def test_a_gguf_file_of_either_layout_describes_the_decoder_of_its_config(name, newer):
    architecture, config = FILES[name]
    expected = from_hf_config(short(config))
    tensors = written(expected, newer=newer)
    spec = from_gguf(metadata(architecture, short(config), newer=newer), tensors)
    assert [same(layer) for layer in spec.layers] == [same(layer) for layer in expected.layers]
    assert {w.name: w.shape for w in spec.weights} == {w.name: w.shape for w in expected.weights}
    assert {s.tensor for w in spec.weights for s in w.sources} == set(tensors)
    for factor in ("embedding_multiplier", "residual_multiplier", "logits_multiplier"):
        assert getattr(spec, factor) == pytest.approx(getattr(expected, factor)), factor


def same(layer: Any) -> Any:
    """A layer with its scale and temperature rounded: a file's float32 products differ in the last digits."""
    attention = layer.attention
    rotary = attention.rotary
    if rotary.scaling is not None:
        scaling = dataclasses.replace(rotary.scaling, attention_factor=round(rotary.attention_factor(), 6))
        rotary = dataclasses.replace(rotary, scaling=scaling)
    attention = dataclasses.replace(attention, scale=round(attention.scale, 9), rotary=rotary)
    return dataclasses.replace(layer, attention=attention)


@pytest.mark.parametrize(("name", "newer"), files())
def test_the_files_tensors_are_those_that_llama_cpp_lists(name, newer):
    architecture, config = FILES[name]
    number = next(key for key, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    listed = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]}
    for tensor in written(from_hf_config(short(config)), newer=newer):
        assert "blk.0." not in tensor or tensor.rpartition(".")[0].replace("blk.0.", "blk.{bid}.") in listed, tensor


def test_keys_in_blocks_are_widened_where_they_are_transposed_alone():
    """Keys of the newer layout stay as they are; the older one's lie along the latent."""
    expected = from_hf_config(short(DEEPSEEK_V2_LITE))
    for newer, format_ in ((True, "q8_0"), (False, "f16")):
        tensors = {
            name: ("q8_0" if "_b." in name else kind, shape)
            for name, (kind, shape) in written(expected, newer=newer).items()
        }
        spec = from_gguf(metadata("deepseek2", short(DEEPSEEK_V2_LITE), newer=newer), tensors)
        weights = {w.name: w for w in spec.weights}
        assert (weights["layers.0.k_b"].format, weights["layers.0.v_b"].format) == (format_, "q8_0")
        assert isinstance(weights["layers.0.k_b"].transform, TransposeHeads) != newer
        # On a GPU both are widened: each head multiplies rows of its own.
        assert not any(
            weights[f"layers.0.{last}"].stays_packed(weights[f"layers.0.{last}"].shape) for last in ("k_b", "v_b")
        )


def test_a_token_keeps_one_latent_and_one_turned_key_in_every_layer():
    for config, layers, width in ((DEEPSEEK_V2_LITE, 27, 576), (DEEPSEEK_V3, 61, 576), (MINICPM3_4B, 62, 288)):
        spec = from_hf_config(config)
        (group,) = spec.kv_layout(16, "bf16").groups
        assert (group.kind, group.window, len(group.layers)) == ("latent", None, layers)
        assert group.block_bytes == 16 * layers * width * 2
        assert spec.kv_bytes(160, "bf16") == 160 * layers * width * 2


def test_every_rank_keeps_the_whole_latent_and_its_own_heads():
    spec = from_hf_config(DEEPSEEK_V2_LITE)
    mine = part(spec, Place(1, 4, 0, 1))
    shapes = {w.name: w.shape for w in mine.weights}
    assert mine.layers[0].attention.num_heads == 4
    assert shapes["layers.0.q"] == (4 * 192, 2048)
    assert shapes["layers.0.kv_a"] == (576, 2048)
    assert (shapes["layers.0.k_b"], shapes["layers.0.v_b"]) == ((4 * 512, 128), (4 * 128, 512))
    assert shapes["layers.0.o"] == (2048, 4 * 128)
    assert kv_layout(spec, Place(1, 4, 0, 1), 16, "bf16") == spec.kv_layout(16, "bf16")
    assert kv_layout(spec, Place(0, 4), 16, "bf16").kept_bytes(160) == spec.kv_bytes(160, "bf16")
    second = kv_layout(spec, Place(0, 1, 1, 2), 16, "bf16").groups[0]
    assert (second.kind, len(second.layers), second.block_bytes) == ("latent", 13, 16 * 13 * 576 * 2)
    held = sum(w.nbytes for w in mine.weights)
    assert weights_on_gpu(spec, None, 4, 1) == held


def test_yarn_lengthens_the_rotary_part_and_warms_the_whole_product():
    """DeepSeek's own: 0.1 · mscale_all_dim · ln(factor) + 1, squared; what cos and sin have is the ratio of two such."""
    attention = from_hf_config(DEEPSEEK_V2_LITE).layers[0].attention
    warmed = (0.1 * 0.707 * math.log(40) + 1) ** 2
    assert attention.scale == pytest.approx(warmed / math.sqrt(192))
    assert attention.rotary.attention_factor() == pytest.approx(1.0)
    assert (attention.rotary.dim, attention.rotary.interleaved) == (64, True)
    plain = from_hf_config(DEEPSEEK_V2_LITE | {"rope_scaling": None}).layers[0].attention
    assert plain.scale == pytest.approx(1 / math.sqrt(192))
    assert not from_hf_config(MINICPM3_4B).layers[0].attention.rotary.interleaved


def test_routers_are_those_of_their_families():
    def router(config: dict[str, Any]) -> Router:
        mlp = from_hf_config(config).layers[-1].mlp
        assert isinstance(mlp, Experts)
        return mlp.router

    assert router(DEEPSEEK_V2_LITE) == Router("softmax", renormalize=False, group_by="max")
    assert router(DEEPSEEK_V2) == Router(
        "softmax", renormalize=False, num_groups=8, top_groups=3, group_by="max", scale=16.0
    )
    assert router(DEEPSEEK_V3) == Router("sigmoid", correction=True, num_groups=8, top_groups=4, scale=2.5)
    assert router(KIMI_K2) == Router("sigmoid", correction=True, scale=2.827)
    sparse = [isinstance(layer.mlp, Experts) for layer in from_hf_config(DEEPSEEK_V3).layers]
    assert sparse == [False] * 3 + [True] * 58


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            DEEPSEEK_V3 | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            UnsupportedModelError,
            r"quantization_config: weights quantized as 'fp8' are not supported; use the plain model or a GGUF file",
        ),
        (DEEPSEEK_V2 | {"topk_method": "best"}, UnsupportedModelError, "topk_method is 'best'; supported are greedy"),
        (DEEPSEEK_V2 | {"norm_topk_prob": True}, UnsupportedModelError, "norm_topk_prob is True"),
        (DEEPSEEK_V3 | {"num_key_value_heads": 8}, InvalidConfigError, "num_key_value_heads is 8; with latent"),
        (
            DEEPSEEK_V3 | {"qk_rope_head_dim": 63},
            InvalidConfigError,
            "qk_rope_head_dim is 63; a head's size must be even",
        ),
        (DEEPSEEK_V3 | {"kv_lora_rank": None}, InvalidConfigError, "kv_lora_rank is missing"),
        (DEEPSEEK_V3 | {"n_group": 7}, InvalidConfigError, "n_group is 7, which does not divide n_routed_experts, 256"),
        (
            GLM_4_7_FLASH | {"mlp_layer_types": ["dense"] * 46 + ["both"]},
            InvalidConfigError,
            "mlp_layer_types must hold dense or sparse for each layer",
        ),
    ],
)
def test_what_does_not_fit_is_named(config, error, message):
    with pytest.raises(error, match=message):
        from_hf_config(config)


@tried(150)
@given(data=st.data())
def test_any_value_in_any_key_of_a_file_gives_a_spec_or_a_model_error(data):
    newer = data.draw(st.booleans())
    config = short(DEEPSEEK_V3)
    keys = metadata("deepseek2", config, newer=newer)
    keys[data.draw(st.sampled_from(sorted(keys)))] = data.draw(NUMBERS | JUNK)
    with contextlib.suppress(ModelError):
        exercise(from_gguf(keys, written(from_hf_config(config), newer=newer)))


def test_every_published_one_is_divided_by_its_heads():
    for config, _ in PARAMETERS.values():
        heads = config["num_attention_heads"]
        assert part(from_hf_config(config), Place(0, 2, 0, 1)).layers[0].attention.num_heads == heads // 2
