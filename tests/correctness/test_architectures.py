"""Every architecture that the engine describes computes what transformers computes, on small random models."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.compared_logits import check_logits
from octavo_testing.stored_weights import check_stored, stored_shapes
from octavo_testing.tiny_models import MODELS, SIZES, make

from octavo_engine.config import ModelConfig
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve


@pytest.fixture(scope="module", params=list(MODELS))
def tiny_model(request, tmp_path_factory):
    """(folder, transformers model)."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, make(request.param, folder)


def test_the_description_reads_every_tensor_of_the_checkpoint_once(tiny_model):
    """transformers writes the names and shapes that published checkpoints have."""
    folder, _ = tiny_model
    model_config = ModelConfig(model=str(folder), served_model_names=("tiny",))
    check_stored(read_spec(model_config, resolve(model_config, lambda *_: None)), stored_shapes(folder))


def test_logits_and_greedy_tokens_equal_transformers(tiny_model, executor_name):
    """Prompts of odd lengths past the windows, prefilled in chunks and decoded together; logits to 1e-3."""
    folder, model = tiny_model
    check_logits(folder, executor_name, lambda ids: model(torch.tensor([ids])).logits[0], SIZES["vocab_size"])
