"""Sequences in the background, the rows of batches, have what others leave: counted in the steps that are scheduled."""

from __future__ import annotations

import msgspec
import pytest

from octavo_engine.config import SchedulerConfig
from octavo_engine.core.outputs import StepOutput
from octavo_engine.core.scheduler import Scheduler
from octavo_engine.core.swapping import SwapRule
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams
from octavo_models.spec import KVGroup, KVLayout


def scheduler(*, blocks=100, window=None, swaps=None, **config) -> Scheduler:
    """Blocks of four tokens in one group. `swaps`: the most blocks that a step may move, and nothing is cached."""
    layout = KVLayout(4, (KVGroup("only", (0,), 1, window),))
    config = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_step_seconds": 0.0} | config
    return Scheduler(
        SchedulerConfig(**config),
        layout,
        (blocks + 1,),
        max_model_len=200,
        enable_prefix_caching=swaps is None,
        num_host_blocks=(31,) if swaps else (),
        swap_rule=SwapRule([1.0], max_step_seconds=swaps) if swaps else None,
    )


def request(name: str, prompt: int, max_tokens: int = 5, *, row: bool = False) -> EngineRequest:
    tokens = [sum(map(ord, name)) * 1000 + i for i in range(prompt)]
    sampling = SamplingParams(max_tokens=max_tokens)
    return EngineRequest(request_id=name, prompt_token_ids=tokens, sampling=sampling, arrival_time=0.0, background=row)


def step(core: Scheduler) -> dict[str, int]:
    """Run one step; the tokens that it computes of each request."""
    made = core.schedule()
    assert made is not None
    core.update(StepOutput(made.step_id, {r: [9] for r in made.samples}))
    core.block_manager.check()
    return dict(made.num_scheduled_tokens)


def run(core: Scheduler) -> list[dict[str, int]]:
    steps = []
    while core.requests.has_work:
        steps.append(step(core))
    return steps


def test_rows_alone_have_whole_steps():
    """Without other requests they are scheduled as these are."""
    rows, others = scheduler(), scheduler()
    for i in range(10):
        rows.add(request(f"r{i}", 10, row=True))
        others.add(request(f"r{i}", 10))
    assert run(rows) == run(others)


def test_a_stream_has_its_token_in_each_step_and_rows_no_more_than_one_beside_it():
    """A step beside one stream computes one token of a batch at most, of however many rows."""
    core = scheduler()
    for i in range(6):
        core.add(request(f"r{i}", 20, 30, row=True))
    step(core)
    core.add(request("stream", 5, 20))
    assert step(core)["stream"] == 5
    for _ in range(19):
        tokens = step(core)
        assert tokens.pop("stream") == 1
        assert sum(tokens.values()) == 1
    assert sum(step(core).values()) > 1  # it has ended: rows have whole steps again


def test_an_online_request_takes_the_place_of_a_row_at_once():
    """All places are taken by rows: it runs in the next step, and no row is lost."""
    core = scheduler(max_num_seqs=2)
    core.add(request("r0", 4, 30, row=True))
    core.add(request("r1", 4, 30, row=True))
    step(core)
    core.add(request("a", 4, 3))
    core.add(request("b", 4, 3))
    assert step(core) == {"a": 4, "b": 4}
    steps = run(core)
    assert [set(each) for each in steps[:2]] == [{"a", "b"}] * 2
    assert {name for each in steps[2:] for name in each} == {"r0", "r1"}
    assert core.stats().num_preemptions == 2


def test_an_online_request_takes_the_blocks_of_rows():
    """Rows hold all blocks."""
    core = scheduler(blocks=12)
    core.add(request("r0", 20, 100, row=True))
    core.add(request("r1", 20, 100, row=True))
    while core.block_manager.usage < 0.9:
        step(core)
    core.add(request("a", 30, 3))
    assert step(core)["a"] >= 16
    while "a" in core.requests:
        assert "a" in step(core)


def test_an_online_prompt_is_not_cut_for_a_row():
    """A long prompt leaves half of a step to another one, but none of it to a batch."""
    core = scheduler()
    core.add(request("a", 60, 2))
    for i in range(3):
        core.add(request(f"r{i}", 40, 2, row=True))
    assert step(core) == {"a": 32}
    assert step(core)["a"] == 28


@pytest.mark.parametrize("chunked", [True, False])
def test_a_row_waits_behind_requests_that_came_later(chunked):
    """Rows come last whatever their priority and their arrival."""
    core = scheduler(policy="priority", enable_chunked_prefill=chunked, max_num_seqs=1)
    core.add(msgspec.structs.replace(request("row", 8, 2, row=True), priority=-100))
    core.add(request("first", 8, 2))
    core.add(request("second", 8, 2))
    order = list(dict.fromkeys(name for each in run(core) for name in each))
    assert order == ["first", "second", "row"]


def test_rows_are_counted_apart():
    core = scheduler(max_num_seqs=2)
    for name in ("r0", "r1", "r2"):
        core.add(request(name, 4, 30, row=True))
    step(core)
    core.add(request("a", 4, 30))
    stats = core.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 1)
    assert (stats.num_background_running, stats.num_background_waiting) == (2, 1)
    core.requests.abort("r2")
    assert core.stats().num_background_waiting == 0


def test_a_row_does_not_return_in_the_step_that_swaps_it_out():
    """Its token is in flight, and the long prompt that it made room for leaves a block to it: it has nothing to compute."""
    core = scheduler(blocks=4, window=1, swaps=100, max_num_batched_tokens=16)
    core.add(request("row", 1, 30, row=True))
    step(core)
    first = core.schedule()
    assert first is not None
    core.add(request("long", 16))
    core.add(request("short", 1))
    second = core.schedule()
    assert second is not None
    assert second.kv_ops.swap_out
    assert set(second.num_scheduled_tokens) == {"long", "short"}
    for made in (first, second):
        core.update(StepOutput(made.step_id, {r: [9] for r in made.samples}))
    assert all(count > 0 for each in run(core) for count in each.values())


def test_rows_run_while_the_moves_of_a_step_keep_an_online_request_from_coming_back():
    """A row's swap for its sake and its own eight moves are more than a step has: the swap precedes, in a step of rows."""
    core = scheduler(blocks=12, swaps=8, policy="priority", max_num_batched_tokens=64)
    core.add(msgspec.structs.replace(request("urgent", 16, 100), priority=-5))
    core.add(msgspec.structs.replace(request("online", 32, 12), adapter_id=1))
    step(core)
    while core.stats().num_running == 2:
        step(core)
    assert core.stats().num_swapped == 1
    others = ("z0", "z1", "z2")
    for name in others:
        core.add(msgspec.structs.replace(request(name, 3, 100), adapter_id=2, priority=-4))
    step(core)
    core.requests.abort("urgent")
    for name in ("r0", "r1", "r2"):
        core.add(request(name, 8, 10, row=True))
    while core.stats().num_background_running < 2:
        step(core)
    for name in others:
        core.requests.abort(name)
    core.requests.take_outputs()
    steps = run(core)
    assert steps[0].keys() == {"r0"}
    assert "online" in steps[1]
    assert {"r0", "r1", "r2"} <= {name for each in steps for name in each}
