"""A rank's host memory grows by its share of the file, and little beside it, while its weights are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from octavo_models import from_hf_config

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16_001,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 256,
    "torch_dtype": "bfloat16",
}
MOST = 1.3
READ = """
import sys, torch
from pathlib import Path
from octavo_engine.config import ModelConfig
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.partition import Place

def figure(name):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name)) << 10

folder, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = ModelConfig(model=folder, served_model_names=("m",))
files = resolve(model, lambda *_: None)
spec, place = read_spec(model, files), Place.of(rank, ranks, 1)
torch.ones(1 << 22).bfloat16()  # what the first operation costs
Path("/proc/self/clear_refs").write_text("5")
before = figure("VmRSS")
held = read_weights(spec, files, torch.bfloat16, torch.device("cpu"), 0, place)
print(figure("VmHWM") - before, sum(t.nbytes for t in held.values()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 290 MB in bfloat16."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    spec = from_hf_config(CONFIG)
    # No two are alike: a head that equals the embedding is taken for it.
    tensors = {
        w.sources[0].tensor: torch.full(w.shape, 1.0 + i, dtype=torch.bfloat16) for i, w in enumerate(spec.weights)
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 3), (2, 3)])
def test_loading_takes_little_more_than_the_ranks_share(folder, rank, ranks):
    """Neither float32 copies of what is read, nor whole matrices of which the rank has some columns."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", READ, str(folder), str(rank), str(ranks)],
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_ARENA_MAX": "2", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown, share = map(int, done.stdout.split())
    assert share > (folder / "model.safetensors").stat().st_size / ranks * 0.95
    assert grown < MOST * share
