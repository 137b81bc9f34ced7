"""Prompts share a step, and those that end while they wait leave nothing behind."""

from __future__ import annotations

from test_scheduler import TOKEN, request, scheduler, step

from octavo_engine.core.outputs import StepOutput
from octavo_engine.core.prefill_shares import LEAST_CHUNK


def test_short_prompt_does_not_wait_for_the_end_of_a_long_one() -> None:
    """The short prompt is computed in the next step, whole; the long one takes what it leaves."""
    core = scheduler()
    core.add(request("long", 150))
    step(core)
    core.add(request("short", 10))
    made, _ = step(core)
    assert made.num_scheduled_tokens == {"long": 22, "short": 10}
    made, _ = step(core)
    assert made.num_scheduled_tokens == {"long": 31, "short": 1}


def test_no_prefill_takes_more_than_half_of_a_step_while_others_can_use_it() -> None:
    """Be they running or waiting, and in whatever order they came."""
    core = scheduler(blocks=200)
    core.add(request("a", 150))
    step(core)
    core.add(request("b", 150))
    core.add(request("c", 150))
    made, _ = step(core)
    assert made.num_scheduled_tokens == {"a": 16, "b": 8, "c": 8}
    made, _ = step(core)
    assert made.num_scheduled_tokens == {"a": 16, "b": 8, "c": 8}


def test_prompts_that_would_get_a_few_tokens_of_a_step_wait_for_another() -> None:
    """Each chunk reads its whole context again: many small ones take far longer than their tokens say."""
    core = scheduler(blocks=400)
    names = "abcdefgh"
    for name in names:
        core.add(request(name, 150, 1))
    left = dict.fromkeys(names, 150)
    while any(left.values()):
        made, _ = step(core)
        for name, count in made.num_scheduled_tokens.items():
            assert count >= min(LEAST_CHUNK, left[name])
            left[name] -= count
        assert 0 < len(made.num_scheduled_tokens) <= 32 // LEAST_CHUNK


def test_prefill_leaves_nothing_for_one_that_has_no_place_or_blocks() -> None:
    """Half of each step would be wasted until one of the others ends."""
    core = scheduler(max_num_seqs=1)
    core.add(request("a", 150))
    core.add(request("b", 10))
    assert step(core)[0].num_scheduled_tokens == {"a": 32}
    assert step(core)[0].num_scheduled_tokens == {"a": 32}
    core = scheduler(blocks=50)
    core.add(request("a", 150))
    step(core)
    core.add(request("b", 150))
    assert step(core)[0].num_scheduled_tokens == {"a": 32}


def test_no_request_waits_when_a_preempted_one_ends_among_many_that_were_aborted() -> None:
    """The last token was in flight; the queue is rid of those that have ended at that very moment."""
    core = scheduler(blocks=4)
    core.add(request("a", 7, 9))
    core.add(request("b", 7, 2))
    step(core)
    last = core.schedule()
    assert last is not None
    ahead = core.schedule()
    assert ahead is not None
    assert set(ahead.num_scheduled_tokens) == {"a"}
    assert core.stats().num_waiting == 1, "b, whose last token is on its way"
    for i in range(65):
        core.add(request(f"r{i}", 3))
    for i in range(64):
        core.requests.abort(f"r{i}")
    assert core.stats().num_waiting == 2
    outputs = core.update(StepOutput(last.step_id, {r: [TOKEN] for r in last.samples}))
    assert [(o.request_id, o.finish_reason) for o in outputs if o.finish_reason] == [("b", "length")]
    assert core.stats().num_waiting == 1
    core.requests.abort("r64")
    assert core.stats().num_waiting == 0
