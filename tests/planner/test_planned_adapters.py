"""Flags of adapters in `engine.args` take their memory: of one step's on a GPU, of all that are loaded on a CPU."""

import pytest
from octavo_testing.planner_cases import CPU, MISTRAL_7B, SMALL, described, on_a100, planned

from octavo_models.adapter_modules import adapter_elements
from octavo_operator.planner.sizes import MIB


@pytest.mark.parametrize("runtime", ["octavo", "vllm"])
@pytest.mark.parametrize(
    ("args", "adapters", "rank"),
    [
        (["--enable-lora"], 1, 16),
        (["--enable_lora", "--max-loras=4", "--max-lora-rank", "64", "--max-cpu-loras", "99"], 4, 64),
        (["--lora-modules", "a=/a", "b=/b", "--max-loras", "2"], 2, 16),
        (["--max-loras", "4"], 0, 16),
    ],
)
def test_a_gpu_has_a_place_for_each_adapter_of_a_step(args, adapters, rank, runtime):
    plain = planned(MISTRAL_7B, **on_a100(runtime=runtime)).fit.budget
    adapted = planned(MISTRAL_7B, **on_a100(runtime=runtime, args=args)).fit.budget
    expected = 2 * adapters * adapter_elements(described(MISTRAL_7B), rank)
    assert adapted.overhead - plain.overhead == expected
    assert adapted.kv == plain.kv - expected


@pytest.mark.parametrize(
    ("args", "adapters"),
    [
        (["--enable-lora"], 1),
        (["--lora-modules", "a=/a", "b=/b", "c=/c"], 3),
        (["--enable-lora", "--enable-runtime-lora-updates"], 8),
        (["--enable-lora", "--max-cpu-loras", "20"], 20),
    ],
)
def test_a_cpu_keeps_all_adapters_that_are_loaded(args, adapters):
    """Adapters are a part of the memory that is asked for, and leave less of a limit to the KV cache."""
    engine = {"maxModelLen": 4096}
    limits = {"limits": {"memory": "2Gi"}}
    plain = planned(SMALL, accelerator=CPU, engine=engine, resources=limits)
    adapted = planned(SMALL, accelerator=CPU, engine=engine | {"args": args}, resources=limits)
    expected = 2 * adapters * adapter_elements(described(SMALL), 16)
    assert adapted.fit.budget.overhead - plain.fit.budget.overhead == expected
    assert abs(plain.limits.kv_cache_bytes - adapted.limits.kv_cache_bytes - expected) <= MIB
