"""Adapters take turns in steps: few different ones at once, none waits forever, and the base model's requests never do."""

from __future__ import annotations

import msgspec
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

PROMPT = [1, 2, 3]


def request(name: str, adapter_id: int, *, max_tokens: int = 6, priority: int = 0) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return EngineRequest(
        request_id=name,
        prompt_token_ids=PROMPT,
        sampling=sampling,
        arrival_time=0.0,
        adapter_id=adapter_id,
        priority=priority,
    )


def core_with(executor: FakeExecutor, *, max_loras: int, **settings) -> EngineCore:
    return core_over(executor, max_loras=max_loras, **({"spare_bytes": 500, "max_num_seqs": 16} | settings))


def in_step(executor: FakeExecutor) -> set[str]:
    return set(executor.steps[-1].num_scheduled_tokens)


def test_base_requests_start_beside_adapters_that_wait():
    """The second of two adapters waits where there is room for one; a request of the base model behind it does not."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1)
    for name, adapter_id in (("a", 1), ("b", 2), ("base", 0)):
        core.add(request(name, adapter_id))
    core.step()
    assert in_step(executor) == {"a", "base"}
    stats = core.stats()
    assert (stats.running_adapters, stats.waiting_adapters, stats.num_waiting) == ([1], [2], 1)


def test_what_waits_already_shares_the_batch_of_an_adapter_that_runs():
    """Requests of the running adapter that were there when another was passed over start; later ones wait behind it."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1)
    for name, adapter_id in (("a1", 1), ("b1", 2), ("a2", 1), ("b2", 2)):
        core.add(request(name, adapter_id))
    core.step()
    assert in_step(executor) == {"a1", "a2"}
    core.add(request("a3", 1))
    core.step()
    assert in_step(executor) == {"a1", "a2"}, "a3 would keep b1 waiting"
    while "b1" not in in_step(executor):
        core.step()
    assert in_step(executor) == {"b1", "b2"}
    while "a3" not in in_step(executor):
        core.step()


def test_an_adapter_is_served_under_a_stream_of_requests_of_another():
    """Each step brings a new request of the first adapter, for as long as the second waits."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1)
    core.add(request("first", 1))
    core.step()
    core.add(request("other", 2))
    for i in range(40):
        core.add(request(f"more {i}", 1))
        core.step()
        if "other" in in_step(executor):
            return
    raise AssertionError("the other adapter starves")


def test_a_higher_priority_of_a_running_adapter_does_not_wait_behind_a_lower_one():
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1, policy="priority")
    core.add(request("a", 1, priority=1))
    core.step()
    core.add(request("b", 2, priority=1))
    core.step()
    core.add(request("urgent", 1, priority=0))
    core.step()
    assert in_step(executor) == {"a", "urgent"}


def test_the_end_of_a_request_that_was_passed_over_frees_those_behind_it():
    """After its abort, later requests of the running adapter start at once."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1)
    core.add(request("a", 1, max_tokens=30))
    core.step()
    core.add(request("b", 2))
    core.step()
    core.add(request("a2", 1))
    core.step()
    assert in_step(executor) == {"a"}
    core.abort(["b"])
    core.step()
    core.step()
    assert in_step(executor) == {"a", "a2"}


def test_equal_prompts_of_different_adapters_share_no_blocks():
    """Each ends with the tokens of a lonely run of its own adapter, although the prompts are cached for the others."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=2)
    prompt = [5, 6, 7, 8] * 4
    outputs: dict[str, list[int]] = {}
    for adapter_id in (1, 0, 2, 1):
        name = f"{len(outputs)}"
        outputs[name] = []
        core.add(
            EngineRequest(
                request_id=name,
                prompt_token_ids=prompt,
                sampling=SamplingParams(max_tokens=5, ignore_eos=True),
                arrival_time=0.0,
                adapter_id=adapter_id,
            )
        )
        while core.has_work:
            for output in core.step():
                outputs[output.request_id] += output.new_token_ids
        expected, _ = lonely_run(
            prompt,
            SamplingParams(max_tokens=5, ignore_eos=True),
            max_model_len=64,
            vocab_size=executor.vocab_size,
            adapter_id=adapter_id,
        )
        assert outputs[name] == expected
    assert core.stats().prefix_cache_hits == 12, "the second request of adapter 1 finds what the first has computed"


def test_what_runs_in_the_background_gives_the_place_of_its_adapter_up():
    """A batch's row is preempted for a request of another adapter, and goes on after it; base requests start meanwhile."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1)
    core.add(msgspec.structs.replace(request("row", 1, max_tokens=30), background=True))
    core.step()
    assert in_step(executor) == {"row"}
    core.add(request("online", 2))
    core.step()
    assert "online" in in_step(executor)
    assert "row" not in in_step(executor)
    ended = {}
    while core.has_work:
        ended |= {o.request_id: o.finish_reason for o in core.step() if o.finish_reason}
    assert ended == {"online": "length", "row": "length"}


def test_the_background_runs_beside_requests_that_wait_for_their_adapter():
    """A request that waits for its adapter leaves its part of the step to a batch's row."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=1)
    core.add(request("a", 1, max_tokens=30))
    core.add(request("b", 2))
    core.add(msgspec.structs.replace(request("row", 0), background=True))
    core.step()
    core.step()
    assert in_step(executor) == {"a", "row"}


def test_a_place_is_made_by_the_adapter_with_the_fewest_rows_in_the_background():
    """Rows of the base model and of the other adapter go on, although they are the last ones."""
    executor = FakeExecutor()
    core = core_with(executor, max_loras=2)
    for name, adapter_id in (("alone", 2), ("one", 1), ("two", 1), ("base", 0)):
        core.add(msgspec.structs.replace(request(name, adapter_id, max_tokens=30), background=True))
    core.step()
    core.add(request("online", 3))
    core.step()
    assert in_step(executor) == {"online"}
    stats = core.stats()
    assert (stats.num_preemptions, stats.running_adapters, stats.waiting_adapters) == (1, [1, 3], [2])
    ended = {}
    while core.has_work:
        ended |= {o.request_id: o.num_preemptions for o in core.step() if o.finish_reason}
    assert ended == {"online": 0, "alone": 1, "one": 0, "two": 0, "base": 0}
