"""`--enable-per-request-metrics`: an answer of one choice says how long it waited and ran."""

from __future__ import annotations

import pytest
from octavo_testing.served import Served
from raw_http import chunks_of

from octavo_engine.messages import EngineOutput
from octavo_engine.server.answer.times import Clock, RequestTimes

BODIES = {
    "/v1/completions": {"prompt": "hi", "max_tokens": 5},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
}


@pytest.fixture(scope="module")
def timed(fake_model):
    with Served(fake_model, "--enable-per-request-metrics", step_seconds=0.01) as server:
        yield server


@pytest.mark.parametrize("path", BODIES)
def test_whole_answers_and_streams_have_times(timed, served, path):
    """The fields are vLLM's; without the flag, and of several choices, there are none."""
    times = timed.post(path, BODIES[path])[1]["metrics"]
    assert set(times) == set(RequestTimes.__struct_fields__)
    assert all(value >= 0 for value in times.values())
    # Five steps of 10 ms at least: the first token, and four between tokens.
    assert times["time_to_first_token_ms"] >= 9
    assert times["generation_time_ms"] == pytest.approx(4 * times["mean_itl_ms"])
    assert times["generation_time_ms"] >= 36
    assert timed.post(path, {**BODIES[path], "n": 2})[1]["metrics"] is None
    assert served.post(path, BODIES[path])[1]["metrics"] is None
    stream = {**BODIES[path], "stream": True, "stream_options": {"include_usage": True}}
    *others, last = chunks_of(timed.post(path, stream)[1])
    assert set(last["metrics"]) == set(times)
    assert not any("metrics" in chunk for chunk in others)
    assert not any("metrics" in chunk for chunk in chunks_of(served.post(path, stream)[1]))


def test_an_answer_of_one_token_has_no_time_between_tokens():
    clock = Clock()
    assert clock.times() == RequestTimes()
    clock.note(EngineOutput(request_id="r", new_token_ids=[1], queued_at=1.0, scheduled_at=3.0))
    times = clock.times()
    assert (times.queue_time_ms, times.generation_time_ms, times.mean_itl_ms) == (2000.0, 0.0, None)
