"""The spec of a published model has its sizes to the byte, and names and shapes as transformers has them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers
from octavo_testing.stored_weights import check_stored
from published_configs import (
    GEMMA_3_4B,
    GEMMA_3_270M,
    LLAMA_2_7B,
    LLAMA_2_70B,
    MISTRAL_7B_V01,
    MISTRAL_7B_V02,
    PARAMETERS,
    QWEN2_5_0_5B,
    SMOLLM3_3B,
)
from published_experts import (
    GPT_OSS_20B,
    LLAMA_4_SCOUT_TEXT,
    MIXTRAL_8X7B,
    PHI_3_5_MOE,
    QWEN1_5_MOE_A2_7B,
    QWEN3_30B_A3B,
)
from published_experts import PARAMETERS as EXPERTS
from published_gemma import GEMMA_3N_E2B, GEMMA_4_26B_A4B, GEMMA_4_31B, GEMMA_4_E2B
from published_gemma import PARAMETERS as GEMMA
from published_latent import PARAMETERS as LATENT
from published_layer_norm import PARAMETERS as LAYER_NORM
from published_learned_positions import PARAMETERS as LEARNED_POSITIONS
from published_remote_code import PARAMETERS as REMOTE_CODE
from published_rms_norm import (
    EXAONE_4_1_2B,
    GEMMA_2_2B,
    GEMMA_2_27B,
    GEMMA_2B,
    GRANITE_3_3_2B,
    OLMO_3_7B,
    PHI_4,
    PHI_4_MINI,
)
from published_rms_norm import PARAMETERS as RMS_NORM

from octavo_models import from_hf_config
from octavo_models.formats import nbytes
from octavo_models.layers import Experts, QueryScaling
from octavo_models.sharding import obstacle
from octavo_models.tensors import Rows, Source

DENSE = PARAMETERS | RMS_NORM | LAYER_NORM | LEARNED_POSITIONS
MODELS = DENSE | GEMMA | EXPERTS | LATENT | REMOTE_CODE
# transformers' name, and that of the tensor
IN_CHECKPOINTS = dict.fromkeys(("GPTNeoXForCausalLM", "GPTNeoXJapaneseForCausalLM"), ("lm_head.", "embed_out."))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_that_are_published(name):
    config, parameters = MODELS[name]
    assert from_hf_config(config).num_parameters == parameters


@pytest.mark.parametrize("name", [name for name in DENSE if name != "Gemma-3-4b"])
def test_weights_have_the_names_and_shapes_that_transformers_gives_them(name):
    """Weights of mixtures differ in memory; test_architectures compares them as they are stored."""
    config, _ = DENSE[name]
    spec = from_hf_config(config)
    model_class = getattr(transformers, config["architectures"][0])
    # A copy: transformers writes into the mappings that it is given.
    fields = {key: copy.deepcopy(value) for key, value in config.items() if key not in {"architectures", "torch_dtype"}}
    with torch.device("meta"):
        model = model_class(model_class.config_class(**fields))
    names = IN_CHECKPOINTS.get(config["architectures"][0], ("", ""))
    expected = {key.replace(*names): tuple(parameter.shape) for key, parameter in model.named_parameters()}
    check_stored(spec, expected)


def test_bytes_follow_from_the_stored_dtype_and_from_any_other():
    spec = from_hf_config(LLAMA_2_7B)
    assert spec.dtype == "float16"
    assert spec.weight_bytes() == 2 * spec.num_parameters
    assert spec.weight_bytes("float32") == 4 * spec.num_parameters
    assert sum(nbytes(weight.format, weight.shape) for weight in spec.weights) == spec.weight_bytes()


def test_kv_of_a_model_without_windows_grows_with_every_token():
    spec = from_hf_config(LLAMA_2_7B)
    a_token = 2 * 32 * 32 * 128 * 2  # K and V, layers, heads, elements, bytes
    assert spec.kv_bytes(4096, "bf16") == 4096 * a_token
    assert spec.kv_bytes(1, "bf16") == 16 * a_token  # memory pages are whole
    assert from_hf_config(LLAMA_2_70B).kv_bytes(4096, "bf16") == 4096 * 2 * 80 * 8 * 128 * 2


def test_kv_of_windowed_layers_stops_growing():
    gemma = from_hf_config(GEMMA_3_270M)
    full, window = gemma.kv_layout(16, "bf16").groups
    assert (full.kind, full.layers, full.window) == ("full", (5, 11, 17), None)
    assert (window.kind, len(window.layers), window.window) == ("window", 15, 512)
    a_layer = 2 * 256 * 2
    assert gemma.kv_bytes(32768, "bf16") == 32768 * 3 * a_layer + (512 + 16) * 15 * a_layer
    assert gemma.kv_bytes(256, "bf16") == 256 * 18 * a_layer


def test_mistral_has_a_window_until_its_config_says_null():
    assert from_hf_config(MISTRAL_7B_V01).layers[0].attention.window == 4096
    assert from_hf_config(MISTRAL_7B_V02).layers[0].attention.window is None
    silent = {key: value for key, value in MISTRAL_7B_V01.items() if key != "sliding_window"}
    assert from_hf_config(silent).layers[31].attention.window == 4096


def test_qwen_has_a_window_only_where_the_config_asks_for_it():
    assert all(layer.attention.window is None for layer in from_hf_config(QWEN2_5_0_5B).layers)
    asked = from_hf_config(QWEN2_5_0_5B | {"use_sliding_window": True})
    assert [layer.attention.window for layer in asked.layers] == [None] * 21 + [32768] * 3


def test_smollm3_leaves_each_fourth_layer_without_rotary():
    rotates = [layer.attention.rotary is not None for layer in from_hf_config(SMOLLM3_3B).layers]
    assert rotates == [True, True, True, False] * 9
    derived = {key: value for key, value in SMOLLM3_3B.items() if key != "no_rope_layers"}
    assert from_hf_config(derived) == from_hf_config(SMOLLM3_3B)


def test_gemma_scales_embeddings_by_the_root_as_the_running_dtype_holds_it():
    assert from_hf_config(GEMMA_3_270M).embedding_multiplier == 25.25
    assert from_hf_config(GEMMA_3_270M, dtype="float16").embedding_multiplier == 25.296875
    single = from_hf_config(GEMMA_3_270M, dtype="float32").embedding_multiplier
    assert single == torch.tensor(640**0.5, dtype=torch.float32).item()


def test_gemma_takes_its_scale_caps_and_norm_offset_from_the_config():
    spec = from_hf_config(GEMMA_3_270M | {"query_pre_attn_scalar": 168, "final_logit_softcapping": 30.0})
    attention = spec.layers[0].attention
    assert attention.scale == 168**-0.5
    assert spec.logits_soft_cap == 30.0
    assert attention.qk_norm is not None
    assert attention.qk_norm.offset == spec.final_norm.offset == 1.0
    assert spec.layers[0].post_mlp_norm == spec.final_norm


def test_gemma_with_a_vision_half_is_read_for_its_text():
    spec = from_hf_config(GEMMA_3_4B)
    assert spec.architecture == "Gemma3ForConditionalGeneration"
    assert (spec.vocab_size, len(spec.layers), spec.layers[0].attention.num_kv_heads) == (262208, 34, 4)
    assert spec.dtype == "bfloat16"
    assert spec.weights[0].sources == (Source("language_model.model.embed_tokens.weight"),)


def test_phi_3_takes_the_long_factors_where_the_model_is_longer_than_it_was_trained():
    attention = from_hf_config(PHI_4_MINI).layers[0].attention
    assert (attention.window, attention.rotary.dim) == (262144, 96)
    assert attention.rotary.scaling.factors == (1.5,) * 48
    assert attention.rotary.attention_factor() == pytest.approx((1 + math.log(32) / math.log(4096)) ** 0.5)
    short = from_hf_config(PHI_4_MINI | {"max_position_embeddings": 4096}).layers[0].attention.rotary
    assert short.scaling.factors == (1.0,) * 48
    assert from_hf_config(PHI_4).layers[0].attention.rotary.scaling is None


def test_gemma_1_means_the_approximation_where_it_says_gelu():
    assert from_hf_config(GEMMA_2B).layers[0].mlp.activation == "gelu_tanh"
    assert from_hf_config(GEMMA_2B | {"hidden_activation": "relu"}).layers[0].mlp.activation == "relu"


def test_gemma_2_has_a_window_in_each_second_layer_and_caps_until_its_config_says_null():
    spec = from_hf_config(GEMMA_2_27B)
    assert [layer.attention.window for layer in spec.layers] == [4096, None] * 23
    assert (spec.layers[0].attention.scale, spec.layers[0].attention.soft_cap) == (144**-0.5, 50.0)
    silent = {key: value for key, value in GEMMA_2_2B.items() if not key.endswith("softcapping")}
    assert from_hf_config(silent) == from_hf_config(GEMMA_2_2B)
    none = from_hf_config(GEMMA_2_2B | {"attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert (none.layers[0].attention.soft_cap, none.logits_soft_cap) == (None, None)


def test_granite_multiplies_in_four_places():
    spec = from_hf_config(GRANITE_3_3_2B)
    assert (spec.embedding_multiplier, spec.residual_multiplier, spec.logits_multiplier) == (12.0, 0.22, 0.125)
    assert spec.layers[0].attention.scale == 0.015625


def test_olmo_3_lengthens_the_layers_without_a_window_alone():
    spec = from_hf_config(OLMO_3_7B)
    sliding, full = spec.layers[2].attention, spec.layers[3].attention
    assert (sliding.window, full.window) == (4096, None)
    assert sliding.rotary.scaling is None
    assert (full.rotary.scaling.kind, full.rotary.attention_factor()) == ("yarn", 1.2079441541679836)
    assert (spec.max_position, full.qk_norm_span) == (65536, "width")
    derived = {key: value for key, value in OLMO_3_7B.items() if key != "layer_types"}
    assert from_hf_config(derived) == spec


def test_exaone_4_rotates_everywhere_or_where_it_has_a_window():
    assert all(layer.attention.rotary for layer in from_hf_config(EXAONE_4_1_2B).layers)
    types = {"layer_types": None, "sliding_window": 4096, "sliding_window_pattern": 4}
    attentions = [layer.attention for layer in from_hf_config(EXAONE_4_1_2B | types).layers[:4]]
    assert [attention.window for attention in attentions] == [4096, 4096, 4096, None]
    assert [attention.rotary is None for attention in attentions] == [False, False, False, True]


def test_hunyuan_stretches_its_base_by_a_fixed_factor():
    config = EXAONE_4_1_2B | {
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "max_position_embeddings": 32768,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        "rope_theta": 10000.0,
    }
    spec = from_hf_config(config)
    assert spec.layers[0].attention.rotary.theta == 10000.0 * 1000.0 ** (64 / 62)
    assert spec.max_position == 32768
    assert from_hf_config(config | {"rope_scaling": {"type": "dynamic", "alpha": 1000.0}}) == spec
    assert from_hf_config(config | {"use_qk_norm": False}).layers[0].attention.qk_norm is None


def test_each_expert_of_a_mixture_has_modules_of_its_own():
    spec = from_hf_config(QWEN3_30B_A3B)
    gate = next(weight for weight in spec.weights if weight.name == "layers.47.experts_gate")
    assert (gate.shape, gate.groups, len(gate.sources)) == ((128 * 768, 2048), 128, 128)
    assert gate.sources[127] == Source("model.layers.47.mlp.experts.127.gate_proj.weight")


def test_layers_of_a_mixture_can_be_dense():
    def sparse(**changes):
        layers = from_hf_config(QWEN1_5_MOE_A2_7B | changes).layers[:6]
        return [isinstance(layer.mlp, Experts) for layer in layers]

    assert sparse() == [True] * 6
    assert sparse(decoder_sparse_step=2, mlp_only_layers=[3]) == [False, True, False, False, False, True]
    dense = from_hf_config(QWEN1_5_MOE_A2_7B | {"decoder_sparse_step": 30}).layers[0].mlp
    assert dense.intermediate_size == 5632


def test_gpt_oss_has_rows_of_gate_and_up_by_turns():
    spec = from_hf_config(GPT_OSS_20B)
    weights = {weight.name: weight for weight in spec.weights}
    up, bias = weights["layers.0.experts_up"].sources[0], weights["layers.0.experts_up_bias"].sources[0]
    assert up == Source("model.layers.0.mlp.experts.gate_up_proj", Rows(1, 1, 2, 32 * 2880), transposed=True)
    assert bias == Source("model.layers.0.mlp.experts.gate_up_proj_bias", Rows(1, 1, 2, 32 * 2880))
    assert weights["layers.0.sinks"].shape == (64,)
    assert [layer.attention.window for layer in spec.layers[:3]] == [128, None, 128]


def test_llama_4_has_chunks_where_it_rotates_and_growing_queries_where_it_does_not():
    first, last = (from_hf_config(LLAMA_4_SCOUT_TEXT).layers[i].attention for i in (0, 3))
    assert (first.chunk, first.qk_norm.weight, first.query_scaling) == (8192, False, None)
    assert (last.chunk, last.rotary, last.qk_norm) == (None, None, None)
    assert last.query_scaling == QueryScaling(0.1, 8192, offset=1)
    untuned = from_hf_config(LLAMA_4_SCOUT_TEXT | {"attn_temperature_tuning": False})
    assert untuned.layers[3].attention.query_scaling is None
    whole = from_hf_config(LLAMA_4_SCOUT_TEXT | {"attention_chunk_size": None})
    assert all(layer.attention.chunk is None for layer in whole.layers)
    listed = from_hf_config(LLAMA_4_SCOUT_TEXT | {"moe_layers": [1, 3]})
    assert [isinstance(layer.mlp, Experts) for layer in listed.layers[:4]] == [False, True, False, True]


def test_phi_3_5_moe_has_its_own_temperature():
    assert from_hf_config(PHI_3_5_MOE).layers[0].attention.rotary.attention_factor() == 1.243163121016122


def test_names_of_a_mixtures_counts_are_those_of_published_configs_or_of_transformers():
    renamed = {key: value for key, value in MIXTRAL_8X7B.items() if key != "num_local_experts"} | {"num_experts": 8}
    assert from_hf_config(renamed) == from_hf_config(MIXTRAL_8X7B)


def test_the_last_layers_of_gemma_3n_read_the_keys_of_the_last_ones_of_their_kind():
    spec = from_hf_config(GEMMA_3N_E2B)
    assert [a.kv_from_layer for a in spec.attentions] == [None] * 20 + ([18] * 4 + [19]) * 2
    full, window = spec.kv_layout(16, "bf16").groups
    assert (full.layers, len(window.layers)) == ((4, 9, 14, 19), 16)
    assert [layer.mlp.cutoff is None for layer in spec.layers] == [False] * 10 + [True] * 20
    silent = {key: value for key, value in GEMMA_3N_E2B.items() if key != "activation_sparsity_pattern"}
    assert from_hf_config(silent) == spec


def test_gemma_4_has_other_heads_where_it_has_no_window():
    local, full = (from_hf_config(GEMMA_4_31B).layers[i].attention for i in (4, 5))
    assert (local.num_kv_heads, local.head_dim_k, local.window, local.values_are_keys) == (16, 256, 1024, False)
    assert (full.num_kv_heads, full.head_dim_k, full.window, full.values_are_keys) == (4, 512, None, True)
    assert (full.rotary.dim, full.rotary.num_turned, local.rotary.num_turned) == (512, 64, None)
    assert full.rotary.inverse_frequencies()[64:] == (0.0,) * 192
    weights = {weight.name: weight.sources for weight in from_hf_config(GEMMA_4_31B).weights}
    assert weights["layers.5.v"] == weights["layers.5.k"] == (Source("model.layers.5.self_attn.k_proj.weight"),)


def test_gemma_4_doubles_the_mlps_of_layers_without_keys():
    spec = from_hf_config(GEMMA_4_E2B)
    assert [layer.mlp.intermediate_size for layer in spec.layers] == [6144] * 15 + [12288] * 20
    assert obstacle(spec, 1, 2).startswith("pipelineParallelSize 2: ")


def test_gemma_4_has_experts_beside_its_mlp():
    mixture = from_hf_config(GEMMA_4_26B_A4B).layers[0].mlp
    assert (mixture.num_experts, mixture.expert.intermediate_size, mixture.shared.intermediate_size) == (128, 704, 2112)
    assert mixture.router.logits_multiplier == 2816**-0.5


def test_tensor_parallel_axes_and_adapter_targets_are_said_of_each_matrix():
    weights = {weight.name: weight for weight in from_hf_config(QWEN2_5_0_5B).weights}
    assert {name: weights[f"layers.0.{name}"].shard_axis for name in ("q", "o", "gate", "down", "q_bias")} == {
        "q": 0,
        "o": 1,
        "gate": 0,
        "down": 1,
        "q_bias": 0,
    }
    assert weights["final_norm"].shard_axis is None
    assert weights["layers.3.up"].adapter_target == "up_proj"
