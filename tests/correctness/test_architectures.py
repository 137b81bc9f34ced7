"""Every architecture that the engine describes computes what transformers computes, on small random models.

Families that transformers does not have are compared with a short reference (octavo_testing.tiny_models.remote_code).
"""

from __future__ import annotations

import pytest
from octavo_testing.compared_logits import SHORT, check_bfloat16, check_logits
from octavo_testing.engine_runs import interpreted
from octavo_testing.stored_weights import check_stored, stored_shapes
from octavo_testing.tiny_models import KINDS, QUICK, tiny, tiny_bfloat16

from octavo_engine.config import ModelConfig
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def tiny_model(request, tmp_path_factory):
    return tiny(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", params=KINDS)
def narrow_model(request, tmp_path_factory):
    """The model in bfloat16."""
    return tiny_bfloat16(request.param, tmp_path_factory.mktemp("narrow"))


def test_the_description_reads_every_tensor_of_the_checkpoint_once(tiny_model):
    """The names and shapes that published checkpoints have, as transformers writes them."""
    model_config = ModelConfig(model=str(tiny_model.folder), served_model_names=("tiny",))
    described = read_spec(model_config, resolve(model_config, lambda *_: None))
    check_stored(described, stored_shapes(tiny_model.folder))


def test_logits_and_greedy_tokens_equal_transformers(tiny_model, executor_name):
    """Prefilled, in chunks and beside strangers, decoded, and begun from the prefix cache."""
    check_logits(tiny_model.folder, executor_name, tiny_model.logits, tiny_model.vocabulary)


@pytest.mark.slow
def test_interpreted_kernels_compute_what_transformers_computes(tiny_model):
    """Triton's own, through all that the torch executor does with them."""
    check_logits(
        tiny_model.folder, "torch", tiny_model.logits, tiny_model.vocabulary, lengths=SHORT, create=interpreted
    )


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_transformers_own(narrow_model, executor_name):
    """Twice as far at most, with the same weights."""
    check_bfloat16(narrow_model, executor_name)
