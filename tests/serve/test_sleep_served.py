"""A server that sleeps gives the memory of its KV blocks back, holds requests, and goes on as before."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from octavo_testing.served import TINY_CONFIG, Served, until, write_model

KV_MIB = 96
BODY = {"prompt": "hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory):
    """A tiny decoder on the native executor, whose KV blocks take most of its memory from the start."""
    model = write_model(tmp_path_factory.mktemp("sleeper"))
    (model / "config.json").write_text(json.dumps({**TINY_CONFIG, "max_position_embeddings": 8192}))
    flags = ("--load-format", "dummy", "--executor", "native", "--enable-development-endpoints")
    with Served(model, *flags, "--kv-cache-memory-bytes", f"{KV_MIB}M", real=True) as server:
        yield server


def resident(server) -> float:
    """MiB of the core process."""
    (line,) = [x for x in Path(f"/proc/{server.core_pid}/status").read_text().splitlines() if x.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def state(server, name):
    return server.metric("vllm:engine_sleep_state", sleep_state=name)


@pytest.mark.slow
def test_memory_comes_back_and_requests_wait(sleeper):
    """The memory falls by that of the KV blocks; a request that comes meanwhile is answered once the server is awake."""
    before = sleeper.post("/v1/completions", BODY)[1]["choices"][0]["text"]
    awake = resident(sleeper)
    assert sleeper.post("/sleep?level=1", None)[0] == 200
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": True}
    assert (state(sleeper, "awake"), state(sleeper, "weights_offloaded")) == (0, 1)
    assert awake - resident(sleeper) > KV_MIB * 0.9
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(sleeper.post("/v1/completions", BODY)))
    waiting.start()
    time.sleep(0.5)
    assert not answers
    assert sleeper.post("/wake_up?tags=weights", None)[0] == 200
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": True}
    assert sleeper.post("/wake_up", None)[0] == 200
    waiting.join(20)
    assert answers[0][1]["choices"][0]["text"] == before
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": False}
    assert (state(sleeper, "awake"), state(sleeper, "weights_offloaded")) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "reason"), [("abort", "abort"), ("wait", "length")])
def test_what_runs_is_ended_as_asked(sleeper, mode, reason):
    answers = []
    body = {**BODY, "max_tokens": 2000}
    running = threading.Thread(target=lambda: answers.append(sleeper.post("/v1/completions", body)))
    running.start()
    until(lambda: sleeper.metric("vllm:num_requests_running") > 0 or answers, 10)
    assert sleeper.post(f"/sleep?mode={mode}", None)[0] == 200
    running.join(20)
    assert answers[0][1]["choices"][0]["finish_reason"] in {reason, "length"}
    assert sleeper.post("/wake_up", None)[0] == 200
    assert sleeper.post("/v1/completions", BODY)[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/sleep?level=2", 501, "query.level"),
        ("/sleep?level=deep", 400, "query.level"),
        ("/sleep?mode=keep", 400, "query.mode"),
        ("/wake_up?tags=dreams", 400, "query.tags"),
    ],
)
def test_what_can_t_be_asked_for_is_named(sleeper, path, status, param):
    found, answer, _ = sleeper.post(path, None)
    assert (found, answer["error"]["param"]) == (status, param)
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": False}


@pytest.mark.slow
def test_no_engine_sleeps_beneath_requests(sleeper):
    """One that a pause keeps would not end, and one that is resumed while a sleep waits for it has its blocks still."""
    body = BODY | {"max_tokens": 4000}
    answers = []
    running = threading.Thread(target=lambda: answers.append(sleeper.post("/v1/completions", body)))
    running.start()
    until(lambda: sleeper.metric("vllm:num_requests_running") == 1, 10)
    assert sleeper.post("/pause?mode=keep", None)[0] == 200
    status, answer, _ = sleeper.post("/sleep?level=1&mode=wait", None)
    assert (status, answer["error"]["param"]) == (409, "query.mode")
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": False}
    assert sleeper.post("/resume", None)[0] == 200
    asleep = []
    sleeping = threading.Thread(target=lambda: asleep.append(sleeper.post("/sleep?level=1&mode=wait", None)[0]))
    sleeping.start()
    until(lambda: sleeper.get("/is_paused")[1] == {"is_paused": True}, 10)
    assert sleeper.post("/wake_up", None)[0] == 200
    sleeping.join(30)
    running.join(60)
    assert answers[0][1]["usage"]["completion_tokens"] == 4000
    assert asleep[0] in {200, 409}  # 200 where the request had ended by then
    sleeper.post("/wake_up", None)
