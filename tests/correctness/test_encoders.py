"""Encoders, embedders and rerankers compute what transformers computes, on small random models and on MiniLM."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.engine_runs import engine_config, interpreted, running_core
from octavo_testing.stored_weights import check_stored, stored_shapes
from octavo_testing.tiny_encoders import MODELS, VOCABULARY, make, pool, reference

from octavo_engine.config import ModelConfig, SchedulerConfig
from octavo_engine.executors import create_executor
from octavo_engine.weights.describe import describe
from octavo_engine.weights.source import resolve

LENGTHS = (1, 2, 16, 37, 70, 5, 1, 133)
INTERPRETED = ("bert, mean", "modernbert", "embeddinggemma", "qwen 3 classifier")


@pytest.fixture(scope="module", params=list(MODELS))
def tiny_encoder(request, tmp_path_factory):
    """(kind, folder, transformers model)."""
    folder = tmp_path_factory.mktemp("tiny")
    return request.param, folder, make(request.param, folder)


def described(folder, **fields):
    model = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32", **fields)
    files = resolve(model, lambda *_: None)
    return model, files, describe(model, files)


def prompts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]


def check_pooled(kind, folder, model, executor, create=create_executor, which=LENGTHS):
    model_config, files, spec = described(folder)
    compute = reference(kind, model, folder)
    config = engine_config(
        model_config, executor, scheduler=SchedulerConfig(max_num_batched_tokens=256, max_num_seqs=6)
    )
    asked = prompts()[: len(which)]
    with running_core(config, files, spec, create) as core:
        got = pool(core, asked)
    for prompt, vector in zip(asked, got, strict=True):
        expected = compute(prompt)
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(torch.tensor(vector), expected, atol=1e-4 * scale, rtol=1e-4)


def test_the_description_reads_every_tensor_of_the_checkpoint_once(tiny_encoder):
    _, folder, _ = tiny_encoder
    shapes = stored_shapes(folder)
    for path in folder.glob("*_Dense"):
        shapes |= {f"{path.name}/{name}": shape for name, shape in stored_shapes(path).items()}
    check_stored(described(folder)[2], shapes)


def test_vectors_equal_transformers(tiny_encoder, executor_name):
    """Prompts of one token and of many, past the windows, pooled beside each other; to 1e-4."""
    check_pooled(*tiny_encoder, executor_name)


@pytest.mark.parametrize("kind", INTERPRETED)
def test_vectors_of_interpreted_kernels_equal_transformers(kind, tmp_path):
    check_pooled(kind, tmp_path, make(kind, tmp_path), "triton", interpreted, LENGTHS[:5])
