"""The choices of one prompt share its blocks: by the prefix cache, and without one as forks of each other."""

from __future__ import annotations

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

PROMPT = [i % 40 for i in range(30)]  # seven blocks of four, and two tokens


def choices(fork, count=8, max_tokens=5):
    return [
        EngineRequest(
            request_id=f"{fork}.{i}",
            prompt_token_ids=PROMPT,
            sampling=SamplingParams(max_tokens=max_tokens, seed=i),
            arrival_time=0.0,
            fork=fork,
        )
        for i in range(count)
    ]


def run(core, requests):
    """The tokens of each."""
    for request in requests:
        core.add(request)
    tokens = {request.request_id: [] for request in requests}
    while core.has_work:
        for output in core.step():
            tokens[output.request_id] += output.new_token_ids
        core.check()
    return tokens


@pytest.mark.parametrize("caching", [True, False])
def test_a_prompts_full_blocks_are_computed_once(caching):
    """Each further choice computes the last, partial block again; what is drawn is what each draws alone."""
    executor = FakeExecutor()
    core = core_over(executor, caching=caching, spare_bytes=1000, max_num_seqs=16)
    found = run(core, choices("a"))
    for i in range(8):
        sampling = SamplingParams(max_tokens=5, seed=i)
        assert found[f"a.{i}"] == lonely_run(PROMPT, sampling, max_model_len=64, vocab_size=50)[0]
    assert sum(step.total_tokens for step in executor.steps) == 30 + 7 * 2 + 8 * 4


def test_without_a_prefix_cache_only_forks_share():
    """Another request of the same prompt finds nothing, nor does one that names no fork."""
    executor = FakeExecutor()
    core = core_over(executor, caching=False, spare_bytes=1000, max_num_seqs=16)
    for fork in ("a", "b", "", ""):
        before = sum(step.total_tokens for step in executor.steps)
        run(core, choices(fork, count=1, max_tokens=1))
        assert sum(step.total_tokens for step in executor.steps) - before == 30
