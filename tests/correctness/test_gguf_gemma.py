"""Gemma 3n and 4 in GGUF files compute what transformers computes; names of tensors are the gguf package's own.

A factor on experts or on a router's input has the suffix `.scale`, and the projections of streams lie in one tensor: as
llama.cpp's convert_hf_to_gguf.py writes them.
"""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from octavo_testing.compared_logits import check_logits
from octavo_testing.gguf_files import write_gguf
from octavo_testing.tiny_models import SIZES, config_of, make

NAMES = {
    "gemma 3n": "gemma3n",
    "gemma 4": "gemma4",
    "gemma 4 with values from keys": "gemma4",
    "gemma 4 with experts": "gemma4",
}
NEVER = 1e30  # what the pairs of a head that do not turn are divided by
SUFFIXES = {"router.scale": ("ffn_gate_inp", "scale"), "router.per_expert_scale": ("ffn_down_exps", "scale")}


def arrays_of(model: torch.nn.Module, architecture: str, num_layers: int) -> dict[str, Any]:
    arch = {"gemma3n": gguf.MODEL_ARCH.GEMMA3N, "gemma4": gguf.MODEL_ARCH.GEMMA4}[architecture]
    names = gguf.get_tensor_name_map(arch, num_layers)
    arrays: dict[str, Any] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, tensor in model.state_dict().items():
        array = tensor.detach().float().numpy()
        stem = name.rpartition(".")[0]
        if "altup_" in name and "projections" in name:
            stacks.setdefault(stem.rpartition(".")[0], []).append(array)
            continue
        layer, _, inner = name.removeprefix("model.layers.").partition(".")
        if inner in SUFFIXES:
            module, suffix = SUFFIXES[inner]
            arrays[f"blk.{layer}.{module}.{suffix}"] = array
            continue
        found = names.get_name(name, try_suffixes=(".weight",)) or names.get_name(stem)
        if found is None:
            assert name == "lm_head.weight"
            continue  # tied
        arrays[found if found.endswith(".weight") else f"{found}.weight"] = array
    return arrays | {f"{names.get_name(stem)}.weight": np.stack(parts) for stem, parts in stacks.items()}


def metadata_of(config: Any) -> dict[str, Any]:
    local = [kind == "sliding_attention" for kind in config.layer_types]
    own = config.per_layer_config["sliding_attention"] if config.model_type == "gemma4_text" else config
    metadata = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": own.num_key_value_heads,
        "attention.key_length": own.head_dim,
        "attention.value_length": own.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": local,
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "final_logit_softcapping": config.final_logit_softcapping,
        "rope.freq_base": config.rope_parameters["full_attention"]["rope_theta"],
        "rope.freq_base_swa": config.rope_parameters["sliding_attention"]["rope_theta"],
    }
    if config.model_type == "gemma3n_text":
        shares = torch.tensor(config.activation_sparsity_pattern)
        cutoffs = torch.distributions.Normal(0, 1).icdf(shares)
        return metadata | {
            "feed_forward_length": config.intermediate_size,
            "activation_sparsity_scale": cutoffs.tolist(),
            "altup.active_idx": 0,
            "altup.num_inputs": 4,
        }
    wide = 2 if config.use_double_wide_mlp else 1
    with_keys = config.num_hidden_layers - config.num_kv_shared_layers
    full = config.per_layer_config["full_attention"]
    metadata |= {
        "feed_forward_length": [config.intermediate_size * (1 if i < with_keys else wide) for i in range(len(local))],
        "attention.head_count_kv": [own.num_key_value_heads if each else full.num_key_value_heads for each in local],
        "attention.key_length": full.head_dim,
        "attention.value_length": full.head_dim,
        "attention.key_length_swa": own.head_dim,
        "attention.value_length_swa": own.head_dim,
        "rope.dimension_count": full.head_dim,
        "rope.dimension_count_swa": own.head_dim,
    }
    if config.enable_moe_block:
        metadata |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.top_k_experts,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    return metadata


@pytest.mark.parametrize("kind", NAMES)
def test_gemma_in_a_gguf_file_computes_what_transformers_computes(kind, executor_name, tmp_path):
    config, architecture = config_of(kind), NAMES[kind]
    model = make(kind, tmp_path / "hf")
    arrays = arrays_of(model, architecture, config.num_hidden_layers)
    if architecture == "gemma4":
        dim = config.per_layer_config["full_attention"].head_dim
        turned = int(0.25 * dim // 2)
        arrays["rope_freqs.weight"] = np.array([1.0] * turned + [NEVER] * (dim // 2 - turned), np.float32)
    if not config.tie_word_embeddings:
        arrays["output.weight"] = model.state_dict()["lm_head.weight"].numpy()
    metadata = {f"{architecture}.{key}": value for key, value in metadata_of(config).items()}
    path = write_gguf(tmp_path / "model.gguf", arrays, metadata, architecture)
    check_logits(path, executor_name, lambda ids: model(torch.tensor([ids])).logits[0], SIZES["vocab_size"])
