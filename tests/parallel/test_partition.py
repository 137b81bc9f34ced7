"""A model's parts: each is a decoder of its own, and together they are the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from octavo_engine.config import ModelConfig
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models import from_hf_config
from octavo_models.partition import Place, kv_layout, layers_of, part, shards
from octavo_models.sharding import stage_of, weights_on_gpu

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 301,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
    "dtype": "float32",
}
GRIDS = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 5), (2, 3)]


def places(tensor: int, stages: int) -> list[Place]:
    return [Place.of(rank, tensor, stages) for rank in range(tensor * stages)]


@pytest.fixture(scope="module")
def spec():
    return from_hf_config(CONFIG)


@pytest.mark.parametrize(("tensor", "stages"), GRIDS)
def test_every_rank_has_weights_of_the_shapes_that_its_decoder_says(spec, tensor, stages):
    """Its heads and widths, whichever of the weights it needs."""
    for place in places(tensor, stages):
        own = part(spec, place)
        shapes = {w.name: w.shape for w in own.weights}
        for i, layer in enumerate(own.layers):
            attention, inner = layer.attention, layer.mlp.intermediate_size
            assert shapes[f"layers.{i}.q"] == (attention.q_size, 32)
            assert shapes[f"layers.{i}.k"] == shapes[f"layers.{i}.v"] == (attention.k_size, 32)
            assert shapes[f"layers.{i}.o"] == (32, attention.o_size)
            assert shapes[f"layers.{i}.down"] == (32, inner)
            assert shapes[f"layers.{i}.up_bias"] == (inner,)
        assert ("embedding" in shapes) == (place.first_stage or place.last_stage)  # tied: the head as well
        assert ("final_norm" in shapes) == place.last_stage


@pytest.mark.parametrize(("tensor", "stages"), GRIDS)
def test_stages_run_every_layer_once_and_the_planners_weights_are_the_fullest_ranks(spec, tensor, stages):
    everywhere = places(tensor, stages)
    ran = [i for place in everywhere if place.tensor_rank == 0 for i in layers_of(spec, place)]
    assert ran == list(range(5))
    assert [stage_of(i, 5, stages) for i in ran] == sorted(stage_of(i, 5, stages) for i in ran)
    fullest = max(part(spec, place).weight_bytes("float32") for place in everywhere)
    assert fullest == weights_on_gpu(spec, "float32", tensor, stages)


@pytest.mark.parametrize(("tensor", "stages"), GRIDS)
def test_blocks_have_the_same_groups_everywhere_and_each_rank_its_share(spec, tensor, stages):
    whole = spec.kv_layout(16, "f32")
    shares = [kv_layout(spec, place, 16, "f32") for place in places(tensor, stages)]
    assert all(len(share.groups) == len(whole.groups) for share in shares)
    held_twice = max(1, tensor // 2)  # two KV heads
    assert sum(share.groups[0].block_bytes for share in shares) == whole.groups[0].block_bytes * held_twice


@pytest.mark.parametrize("tensor", [2, 4])
def test_the_parts_of_a_weight_are_the_weight(tmp_path, tensor):
    """Cut rows and columns lie side by side; biases after the sum are on one rank; the vocabulary is padded with zeros."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = ModelConfig(model=str(tmp_path), served_model_names=("m",), load_format="dummy")
    files = resolve(model, lambda *_: None)
    spec = read_spec(model, files)
    cpu = torch.device("cpu")
    whole = read_weights(spec, files, torch.float32, cpu, 0, Place())
    parts = [read_weights(spec, files, torch.float32, cpu, 0, place) for place in places(tensor, 1)]
    for shard in shards(spec, Place(0, tensor)):
        name = shard.weight.name
        pieces = [p[name] for p in parts]
        if name.endswith(("o_bias", "down_bias")):
            joined = sum(pieces)
        elif name.rpartition(".")[2] in {"k", "v", "k_bias", "v_bias"}:
            joined = torch.cat(pieces[:: max(1, tensor // 2)])
        else:
            joined = pieces[0] if shard.axis is None else torch.cat(pieces, shard.axis)
        assert not joined[len(whole[name]) :].any(), name
        np.testing.assert_array_equal(joined[: len(whole[name])], whole[name], err_msg=name)
