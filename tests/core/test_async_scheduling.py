"""A step is scheduled and launched before the last one's tokens are known; the results are the same."""

from __future__ import annotations

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams


def request(name, prompt, max_tokens=6, **sampling):
    return EngineRequest(
        request_id=name,
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),
        arrival_time=0.0,
    )


def alone(prompt, max_tokens=6, **sampling):
    return lonely_run(prompt, SamplingParams(max_tokens=max_tokens, **sampling), max_model_len=64, vocab_size=50)


def run(core):
    """(tokens and reason of each, what each call of `step` said)."""
    tokens, reasons, calls = {}, {}, []
    while core.has_work:
        outputs = core.step()
        calls.append([o.request_id for o in outputs])
        for output in outputs:
            tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
            if output.finish_reason:
                assert output.request_id not in reasons
                reasons[output.request_id] = output.finish_reason
        core.check()
        assert len(calls) < 500
    return {name: (tokens[name], reasons[name]) for name in tokens}, calls


def test_outputs_come_one_call_later():
    """The first call launches the prefill, the second launches a decode and returns the prefill's outputs."""
    executor = FakeExecutor(asynchronous=True)
    core = core_over(executor)
    core.add(request("a", [1, 2, 3], 3))
    results, calls = run(core)
    assert results["a"] == alone([1, 2, 3], 3)
    assert calls == [[], ["a"], ["a"], ["a"]]
    assert len(executor.steps) == 3, "whose length is known in advance is not scheduled beyond it"


def test_synchronous_where_it_was_asked_for():
    core = core_over(FakeExecutor(asynchronous=True), async_scheduling=False)
    core.add(request("a", [1, 2, 3], 3))
    assert run(core)[1] == [["a"]] * 3


def test_what_is_drawn_after_a_stop_token_is_void():
    """One step too many is launched for it, and its token is dropped."""
    expected = alone([1, 2, 3], 20)[0]
    stop = expected[4]
    assert stop not in expected[:4]
    executor = FakeExecutor(asynchronous=True)
    core = core_over(executor)
    core.add(request("a", [1, 2, 3], 20, stop_token_ids=(stop,)))
    results, _ = run(core)
    assert results["a"] == (expected[:5], "stop")
    assert len(executor.steps) == 6
    assert core.stats().kv_usage == 0


def test_prompts_alone_are_not_computed_twice():
    """With max_tokens 0 nothing follows the prompt."""
    executor = FakeExecutor(asynchronous=True)
    core = core_over(executor)
    core.add(request("a", [1, 2, 3], 0))
    assert run(core)[0]["a"] == ([], "length")
    assert len(executor.steps) == 1


def test_a_block_that_unknown_tokens_fill_is_shared_once_they_are_known():
    """The cache finds exactly what it finds without asynchrony."""
    found = []
    for asynchronous in (False, True):
        core = core_over(FakeExecutor(asynchronous=asynchronous))
        core.add(request("a", [1, 2, 3], 14))
        prompt = [1, 2, 3, *run(core)[0]["a"][0]]
        core.add(request("b", prompt, 2))
        assert run(core)[0]["b"] == alone(prompt, 2)
        found.append(core.stats().prefix_cache_hits)
    assert found[0] == found[1] == 16


def test_abort_between_launch_and_landing():
    """An aborted request ends once, at once, and its blocks come back; the other goes on."""
    core = core_over(FakeExecutor(asynchronous=True))
    core.add(request("a", list(range(9)), 20))
    core.add(request("b", list(range(9)), 5))
    core.step()
    core.step()
    core.abort(["a"])
    results, _ = run(core)
    assert results["a"][1] == "abort"
    assert results["b"][1] == "length"
    assert core.stats().kv_usage == 0


@pytest.mark.parametrize("how", ["at once", "submit", "sample", "collect", "error"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_request_that_fails_when_another_step_is_in_flight_fails_alone(how, after):
    """The others get the tokens that they would have got without it, those that share its prompt too."""
    executor = FakeExecutor(asynchronous=True)
    core = core_over(executor)
    prompts = {name: [*range(9), i] for i, name in enumerate("abcd")}
    for name, prompt in prompts.items():
        core.add(request(name, prompt))
    tokens = {name: [] for name in prompts}
    for _ in range(after):
        for output in core.step():
            tokens[output.request_id] += output.new_token_ids
    executor.fails["b"] = how
    results, _ = run(core)
    for name, prompt in prompts.items():
        got, reason = results[name]
        if name == "b":
            assert reason == "error"
            assert tokens[name] + got == alone(prompt)[0][: len(tokens[name] + got)]
        else:
            assert (tokens[name] + got, reason) == alone(prompt)
    assert core.stats().kv_usage == 0


def test_a_step_lost_on_the_way_is_computed_again_with_care():
    """Every request of the step is recomputed, one step at a time until all of them have ended; then as before."""
    executor = FakeExecutor(asynchronous=True)
    core = core_over(executor)
    core.add(request("a", [1, 2, 3], 8))
    core.step()
    core.step()
    executor.fails["a"] = "collect"
    core.step()
    executor.fails.clear()
    calls = run(core)[1]
    assert [] not in calls[1:], "every call tells of its own step"
    core.add(request("b", [4, 5], 4))
    results, calls = run(core)
    assert results["b"] == alone([4, 5], 4)
    assert calls[0] == []
