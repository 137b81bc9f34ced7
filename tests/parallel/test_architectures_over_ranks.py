"""Every architecture over two ranks computes what transformers computes, or is refused by the sizes that don't divide."""

from __future__ import annotations

import pytest
from octavo_testing.compared_logits import check_results, config_of, requests_of
from octavo_testing.tiny_models import KINDS, experts, tiny
from rank_pool import finished, spread

from octavo_engine.config import ModelConfig
from octavo_engine.engine.loader import find_files, read_description
from octavo_engine.errors import ConfigError
from octavo_engine.weights.model_spec import read_spec
from octavo_models.features import unsupported
from octavo_models.sharding import obstacle

pytestmark = pytest.mark.slow
MIXTURES = [*sorted(experts.MODELS), "gemma 4 with experts"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_compute_what_transformers_computes(pool, kind, tmp_path):
    """Prefilled, in chunks and beside strangers, and decoded."""
    model = tiny(kind, tmp_path)
    config = spread(config_of(ModelConfig(model=str(tmp_path), served_model_names=("m",), dtype="float32"), "torch"), 2)
    files, _ = find_files(config)
    spec = read_spec(config.model, files)
    if unsupported(spec, "torch") is not None:
        return  # tests/correctness/test_architectures.py has its refusal
    if obstacle(spec, 2, 1) is not None:
        with pytest.raises(ConfigError, match="--tensor-parallel-size 2 "):
            read_description(config, files)
        return
    asked = requests_of(model.vocabulary)
    results = pool.run(config, asked)
    check_results(asked, {name: finished(result) for name, result in results.items()}, model.logits)


@pytest.mark.parametrize("kind", MIXTURES)
def test_two_ranks_with_whole_experts_compute_what_transformers_computes(pool, kind, tmp_path):
    """Every layout of experts' tensors, each rank with some of the experts."""
    model = tiny(kind, tmp_path)
    config = config_of(ModelConfig(model=str(tmp_path), served_model_names=("m",), dtype="float32"), "torch")
    asked = requests_of(model.vocabulary)
    results = pool.run(spread(config, 2, whole_experts=True), asked)
    check_results(asked, {name: finished(result) for name, result in results.items()}, model.logits)
