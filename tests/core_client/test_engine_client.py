"""The client of the engine core, without HTTP: one stream a group of requests, whatever the core does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from types import SimpleNamespace

import pytest
from octavo_testing.served import KIT

from octavo_engine.cli.arguments import parse
from octavo_engine.config import SchedulerConfig
from octavo_engine.core_client.core_handle import CoreHandle
from octavo_engine.core_client.engine_client import EngineClient
from octavo_engine.core_client.output_stream import OutputStream
from octavo_engine.core_client.queue_pace import QueuePace
from octavo_engine.errors import ConfigError, EngineDeadError, QueueFullError, RequestError
from octavo_engine.messages import EngineOutput, EngineRequest, TokenLogprob
from octavo_engine.sampling_params import SamplingParams


class Recorder:
    """An observer that records its calls."""

    def __init__(self):
        self.events = []
        self.steps = 0

    def rejected(self, reason):
        self.events.append(("rejected", reason))

    def arrived(self, request):
        self.events.append(("arrived", request.request_id))

    def output(self, output, now):
        self.events.append(("output", output.request_id))

    def finished(self, request_id, reason, now):
        self.events.append((reason, request_id))

    def stepped(self, stats, now):
        self.steps += 1


def request(name, max_tokens=5, prompt=(10, 11, 12)):
    sampling = SamplingParams(max_tokens=max_tokens, seed=1)
    return EngineRequest(request_id=name, prompt_token_ids=list(prompt), sampling=sampling, arrival_time=time.time())


async def drained(stream):
    while await stream.get():
        pass


@pytest.fixture
async def connected(fake_model, monkeypatch):
    """A client of a core of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(KIT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.005")
    limits = ["--max-num-seqs", "2", "--max-num-queued-reqs", "2"]
    config = parse([str(fake_model), "--load-format", "dummy", "--max-model-len", "256", *limits])
    client = EngineClient(CoreHandle.start(config, "octavo_testing.fake_engine_loader:load"), config.scheduler)
    client.recorder, client.stages = Recorder(), []
    client.connect(client.recorder, lambda stage, seconds: client.stages.append((stage, seconds)))
    await client.ready()
    yield client
    client.close()


async def outputs_of(stream: OutputStream) -> list[EngineOutput]:
    collected = []
    while outputs := await stream.get():
        collected += outputs
    return collected


async def test_a_request_yields_its_tokens_and_then_ends(connected):
    outputs = await outputs_of(connected.submit([request("a")]))
    assert sum(len(output.new_token_ids) for output in outputs) == 5
    assert outputs[-1].finish_reason == "length"
    assert connected.recorder.events[0] == ("arrived", "a")
    assert connected.recorder.events[-1] == ("length", "a")
    assert len(connected.stages) >= 3


async def test_closing_the_stream_aborts_the_request(connected):
    """A client that goes away does so."""
    stream = connected.submit([request("a", max_tokens=200)])
    await stream.get()
    stream.close()
    assert connected.recorder.events[-1] == ("abort", "a")
    assert (await outputs_of(connected.submit([request("b")])))[-1].finish_reason == "length"
    assert connected.stats.num_running == 0


async def test_a_group_shares_one_stream_and_one_end(connected):
    """What waits is handed out together; the end is an empty list."""
    stream = connected.submit([request("a"), request("b", max_tokens=9)])
    counts = {"a": 0, "b": 0}
    while outputs := await stream.get():
        for output in outputs:
            counts[output.request_id] += len(output.new_token_ids)
    assert counts == {"a": 5, "b": 9}
    assert await stream.get() == []


async def test_admission_is_exact_even_before_the_core_has_spoken(connected):
    """Two run, two wait, the fifth is refused; nothing of a refused group is sent."""
    streams = [connected.submit([request(str(i), max_tokens=50)]) for i in range(4)]
    assert connected.num_waiting == 2
    with pytest.raises(QueueFullError) as caught:
        connected.submit([request("x"), request("y")])
    assert caught.value.status == 429
    assert ("rejected", "max_num_queued_reqs") in connected.recorder.events
    with pytest.raises(RequestError, match="more than this server runs and queues"):
        connected.submit([request(str(i)) for i in range(10, 16)])
    await streams[0].get()
    assert connected.num_waiting == 2
    for stream in streams:
        stream.close()
    outputs = await outputs_of(connected.submit([request("after")]))
    assert outputs[-1].finish_reason == "length"


async def test_the_cores_end_reaches_everyone_who_waits(connected):
    """A call after the end fails too."""
    stream = connected.submit([request("a", max_tokens=200)])
    await stream.get()
    deaths = []
    connected.on_death = deaths.append
    os.kill(connected._core.process.pid, signal.SIGKILL)
    with pytest.raises(EngineDeadError, match="killed by signal 9"):
        await drained(stream)
    assert len(deaths) == 1
    with pytest.raises(EngineDeadError):
        connected.submit([request("b")])
    assert ("error", "a") in connected.recorder.events


async def test_a_wait_that_takes_too_long_ends_and_loses_nothing(connected):
    """Each wait has its own seconds, and what comes later is there for the next one."""
    stream = OutputStream(connected.end, ["a"])
    loop = asyncio.get_running_loop()
    output = EngineOutput(request_id="a", new_token_ids=[1])
    for seconds in (0.01, 0.05, 0.02):
        with pytest.raises(TimeoutError):
            await stream.get(seconds)
    for seconds in (0.05, 30):  # the second wait outlives the first one's timer
        loop.call_later(0.1 if seconds == 30 else 0, stream.put, output)
        assert await stream.get(seconds) == [output]
    waiting = asyncio.ensure_future(stream.get(30))
    await asyncio.sleep(0.01)
    waiting.cancel()
    stream.put(output)
    assert await stream.get(0.01) == [output]
    stream.close()
    assert stream._timer is None


async def test_a_request_sent_after_the_cores_end_gets_the_cause(connected):
    """Before the loop has seen the end: its stream is woken, and by the cause, not by what the socket says."""
    os.kill(connected._core.process.pid, signal.SIGKILL)
    connected._core.process.wait()
    time.sleep(0.5)  # noqa: ASYNC251 — the loop must not see it
    stream = connected.submit([request("a")])
    with pytest.raises(EngineDeadError, match="killed by signal 9"):
        await asyncio.wait_for(drained(stream), 20)


def test_a_socket_that_cannot_be_made_ends_the_start_in_a_sentence(tmp_path):
    """Such as on a full disk."""
    core = SimpleNamespace(address=f"ipc://{tmp_path / 'nowhere' / 'engine'}")
    with pytest.raises(ConfigError, match=r"the engine's socket can't be made: .* set TMPDIR"):
        EngineClient(core, SchedulerConfig())


def test_a_client_comes_back_when_half_of_the_queue_has_started():
    """Between a second and a minute."""
    pace = QueuePace()
    assert pace.seconds_for(100, now=0.0) == 1
    for second in range(11):
        pace.started(float(second))
    assert pace.seconds_for(10, now=10.0) == 5
    assert pace.seconds_for(1, now=10.0) == 1
    assert pace.seconds_for(10, now=20.0) == 10, "a queue that has stopped is slower than it was"
    assert pace.seconds_for(1000, now=10.0) == 60


def test_unread_outputs_are_joined():
    """A stream holds tokens, not a message for each: a request of n choices may run for long beside a client that reads nothing."""
    stream = OutputStream(None, ["a", "b"])

    def put(name, *tokens, **more):
        logprobs = [TokenLogprob(token, -1.0, 1, []) for token in tokens]
        stream.put(EngineOutput(request_id=name, new_token_ids=list(tokens), logprobs=logprobs, **more))

    put("a", 1, prompt_logprobs=[None], num_cached_tokens=7)
    for token in range(2, 1000):
        put("a", token)
        put("b", token)
    put("a", 1000, finish_reason="length")
    put("b", 1000, finish_reason="stop")
    held = asyncio.run(stream.get())
    assert [(o.request_id, len(o.new_token_ids), o.finish_reason) for o in held] == [
        ("a", 999, None),
        ("b", 998, None),
        ("a", 1, "length"),
        ("b", 1, "stop"),
    ]
    assert held[0].num_cached_tokens == 7
    assert [entry.token_id for entry in held[0].logprobs] == held[0].new_token_ids == list(range(1, 1000))
    assert asyncio.run(stream.get()) == []
