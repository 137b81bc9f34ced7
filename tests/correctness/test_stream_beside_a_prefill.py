"""A real model computes a long prompt while another request's answer goes on: who gets what in each step."""

from __future__ import annotations

import pytest
from octavo_testing.real_models import SMOLLM2, fetch

from octavo_engine.config import CacheConfig, EngineConfig, ExecutorConfig, SchedulerConfig
from octavo_engine.engine.loader import load
from octavo_engine.executors.native import _native
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

LONG = 4096


def request(name: str, prompt: int, max_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        prompt_token_ids=[(7 * i + prompt) % 40_000 + 10 for i in range(prompt)],
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
        arrival_time=0.0,
    )


def start(max_step_seconds: float):
    config = EngineConfig(
        model=fetch("smollm2", SMOLLM2).config(max_model_len=6000),
        cache=CacheConfig(kv_cache_memory_bytes=400 << 20),
        scheduler=SchedulerConfig(max_step_seconds=max_step_seconds),
        executor=ExecutorConfig(executor="native"),
    )
    return load(config, lambda _message: None)[0]


@pytest.mark.slow
def test_stream_goes_on_in_every_step_of_a_long_prompt(monkeypatch) -> None:
    """With the very tokens that it has alone; how many chunks there are is the machine's matter, but never two or three."""
    if _native.best_isa() == _native.ISAS["amx"]:  # there a token may depend on the batch (docs/decisions/0005)
        monkeypatch.setenv("OCTAVO_NATIVE_ISA", "avx512-bf16")
    core = start(0.5)
    core.add(request("stream", 20, 5000))
    streamed, before = [], 3
    for _ in range(before):
        streamed += [token for output in core.step() for token in output.new_token_ids]
    core.add(request("long", LONG, 1))
    first = None
    while first is None:
        outputs = {output.request_id: output.new_token_ids for output in core.step()}
        assert len(outputs["stream"]) == 1, "a token in each step, those of the prompt's chunks included"
        streamed += outputs["stream"]
        first = outputs.get("long")
    core.close()
    assert len(streamed) - before >= 7

    alone = start(0.0)
    alone.add(request("stream", 20, len(streamed)))
    tokens = []
    while alone.has_work:
        tokens += [token for output in alone.step() for token in output.new_token_ids]
    alone.close()
    assert streamed == tokens
