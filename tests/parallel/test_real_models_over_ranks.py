"""Real models over several ranks on a CPU, in float32: the greedy tokens of one rank."""

from __future__ import annotations

import pytest
from octavo_testing.engine_runs import engine_config, request
from rank_pool import spread

from octavo_engine.config import CacheConfig
from octavo_engine.engine.loader import read_description
from octavo_engine.errors import ConfigError
from octavo_models.sharding import possible_sizes

PROMPT = [504, 3575, 282, 4649, 314]
TOKENS = 6


def config_of(model):
    return engine_config(
        model.config("float32", max_model_len=64), "torch", cache=CacheConfig(num_gpu_blocks_override=32)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [("smollm2", [3]), ("gemma3", [2, 4])])
def test_tokens_are_those_of_one_rank(pool, request_fixture, name, sizes):
    model = request_fixture(name)
    expected = pool.run(config_of(model), [request("a", PROMPT, TOKENS)])["a"]["tokens"]
    assert len(expected) == TOKENS
    for size in sizes:
        got = pool.run(spread(config_of(model), size), [request("a", PROMPT, TOKENS)])
        assert got["a"]["tokens"] == expected, size


@pytest.fixture
def request_fixture(request):
    return request.getfixturevalue


@pytest.mark.parametrize(
    ("tensor", "pipeline", "words"),
    [
        (2, 1, "--tensor-parallel-size 2 does not divide the model's 9 attention heads: 1, 3 would do"),
        (1, 31, "--pipeline-parallel-size 31 is more than the model's 30 layers"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_before_weights_are_read(smollm2, tensor, pipeline, words):
    """Both numbers are named, and what would do."""
    with pytest.raises(ConfigError, match=words):
        read_description(spread(config_of(smollm2), tensor, pipeline), smollm2.files)


def test_what_divides_follows_from_heads_and_widths(smollm2, gemma3):
    for model, sizes in ((smollm2, [1, 3]), (gemma3, [1, 2, 4])):
        spec = read_description(config_of(model), model.files)
        assert possible_sizes(spec, 1, 16) == sizes
