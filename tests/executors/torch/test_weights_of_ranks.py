"""A rank reads its part of what one rank alone reads of a checkpoint, however the tensors are stored."""

from __future__ import annotations

import re

import pytest
import torch
from octavo_testing.tiny_models import make

from octavo_engine.config import ModelConfig
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.safetensors import SafetensorsCheckpoint
from octavo_engine.weights.source import resolve
from octavo_models.layers import Experts
from octavo_models.partition import Place, shards

CPU = torch.device("cpu")


@pytest.mark.parametrize("whole_experts", [False, True])
@pytest.mark.parametrize("kind", ["gpt-oss", "llama 4", "qwen 2 with experts", "phi 3", "gpt 2", "deepseek v3"])
def test_a_rank_reads_its_rows_of_every_expert_and_of_every_packed_tensor(kind, whole_experts, tmp_path):
    """Rows of gate and up in turn, transposed; tensors of all experts, and one for each; q, k and v together; each
    head's keys and values, of which the keys are transposed."""
    make(kind, tmp_path)
    model = ModelConfig(model=str(tmp_path), served_model_names=("tiny",))
    files = resolve(model, lambda *_: None)
    spec = read_spec(model, files)
    whole = read_weights(spec, files, torch.float32, CPU, 0, Place())
    for rank in range(2):
        place = Place.of(rank, 2, 1, whole_experts=whole_experts)
        read = read_weights(spec, files, torch.float32, CPU, 0, place)
        for shard in shards(spec, place):
            expected = whole[shard.whole.name]
            if shard.zero:
                expected = torch.zeros_like(expected)
            elif shard.axis == 0:
                expected = torch.cat([expected[first:last] for first, last in shard.row_ranges])
                rows = shard.weight.shape[0] - len(expected)  # the vocabulary's last part is padded
                expected = torch.cat((expected, expected.new_zeros(rows, *expected.shape[1:])))
            elif shard.axis == 1:
                expected = expected[:, shard.start : shard.start + shard.weight.shape[1]]
            assert torch.equal(read[shard.weight.name], expected), shard.weight.name


def test_a_rank_that_has_whole_experts_reads_no_other_from_the_file(tmp_path, monkeypatch):
    """Each expert has tensors of its own here."""
    make("qwen 2 with experts", tmp_path)
    model = ModelConfig(model=str(tmp_path), served_model_names=("tiny",))
    files = resolve(model, lambda *_: None)
    spec = read_spec(model, files)
    read: list[set[int]] = []
    reading = SafetensorsCheckpoint.read

    def noted(self, name, *rows):
        if expert := re.search(r"experts\.(\d+)\.", name):
            read[-1].add(int(expert[1]))
        return reading(self, name, *rows)

    monkeypatch.setattr(SafetensorsCheckpoint, "read", noted)
    for rank in range(2):
        read.append(set())
        read_weights(spec, files, torch.float32, CPU, 0, Place.of(rank, 2, 1, whole_experts=True))
    mixtures = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, Experts)]
    assert {mixture.num_experts for mixture in mixtures} == {7}
    assert read == [{0, 1, 2}, {3, 4, 5, 6}]
