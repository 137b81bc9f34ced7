"""The planner's memory for requests follows the bounds that the engine's server holds them to."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import CPU, SMALL, planned

from octavo_engine.config import EngineConfig, ModelConfig
from octavo_engine.server import pools
from octavo_engine.server.intake import limits
from octavo_operator.planner import hardware, request_memory
from octavo_operator.planner.sizes import GIB, MIB

LENGTHS = [512, 8192, 65536, 131072, 262144, 1_000_000]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_bounds_are_the_engines(length):
    of_engine = limits.limits_of(EngineConfig(model=ModelConfig(model="m", served_model_names=("m",))), length)
    assert request_memory.body_bytes(length) == of_engine.body_bytes
    assert request_memory.held_bytes(length) == of_engine.all_body_bytes
    assert request_memory.text_characters(length) == of_engine.text_characters


def test_the_threads_are_the_engines():
    assert pools.THREADS["read"] == request_memory.READERS
    assert pools.THREADS["encode"] == request_memory.ENCODERS
    assert pools.THREADS["encode_long"] == 1
    assert request_memory.LONG_TEXT == limits.LONG_TEXT


def test_a_cpus_limit_holds_the_largest_requests_and_its_request_does_not_set_them_aside():
    made = planned(SMALL, accelerator=CPU, engine={"maxModelLen": 4096})
    peak = request_memory.request_bytes(4096)
    asked, limit = (_mib(each["memory"]) for each in (made.resources.requests, made.resources.limits))
    assert made.limits.request_bytes == peak
    assert abs(limit - asked - peak / MIB) <= 64
    assert made.fit.budget.kv == made.limits.kv_cache_bytes


@pytest.mark.parametrize(("limit", "kept"), [("8Gi", "all"), ("1280Mi", "some"), ("640Mi", "none")])
def test_of_a_given_memory_the_cache_comes_first_and_what_is_missing_is_warned_of(limit, kept):
    """A limit that was enough for the model is not refused for the sake of requests that few would send."""
    made = planned(
        SMALL, accelerator=CPU, engine={"maxModelLen": 512, "maxNumSeqs": 8}, resources={"limits": {"memory": limit}}
    )
    assert made.refusal is None
    peak = request_memory.request_bytes(512)
    share = made.limits.request_bytes / peak
    assert {"all": share == 1, "some": 0 < share < 1, "none": share < 0.25}[kept], share
    total = made.fit.budget.weights + made.fit.budget.overhead + made.limits.kv_cache_bytes
    assert total <= _mib(limit) * MIB + MIB
    warned = [each for each in made.warnings if "largest requests" in each]
    assert bool(warned) == (kept != "all")


def test_with_a_gpu_they_are_requested_and_grow_with_the_context():
    def requested(length: int, **engine) -> int:
        accelerator = {"products": ["NVIDIA-H200"]}
        config = SMALL | {"max_position_embeddings": length}
        made = planned(config, accelerator=accelerator, engine={"maxModelLen": length, **engine})
        return _mib(made.resources.requests["memory"]) * MIB

    idle = hardware.PROCESS_BESIDE_GPU + hardware.RANK_BESIDE_GPU + 4 * GIB
    for length in (2048, 131072, 1_000_000):
        assert 0 <= requested(length) - idle - request_memory.request_bytes(length) < GIB


def _mib(amount: str) -> int:
    number, unit = int(amount[:-2]), amount[-2:]
    return number * {"Mi": 1, "Gi": 1024}[unit]
