"""/health with the timeout that users have: a core that stopped is found within it, a slow step never mistaken for one."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time

import pytest
from octavo_testing.served import Served, until, write_model

TIMEOUT = 10.0  # the default of --health-timeout
LATE = 2.0  # the server looks at the heartbeat twice a second, and the last beat was before the core stopped
MARGIN = 3.0  # for a machine that does other work
SLOW_STEP = 15.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tokenizer and no weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_a_stopped_core_is_found_within_the_timeout(model, busy):
    """Idle, or in the middle of a step; /health is 200 before, so that nothing restarts a pod for a hiccup."""
    with Served(model, step_seconds=SLOW_STEP if busy else 0) as server:
        asking = threading.Thread(target=ask, args=(server, []), daemon=True)
        if busy:
            asking.start()
            time.sleep(1)
        assert server.get("/health")[0] == 200
        core = server.core_pid
        os.kill(core, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            time.sleep(TIMEOUT / 2)
            assert server.get("/health")[0] == 200
            until(lambda: server.get("/health")[0] == 503, TIMEOUT / 2 + LATE + MARGIN)
            assert time.monotonic() - stopped > TIMEOUT - LATE
            assert "silent" in server.get("/health")[1]["status"]
        finally:
            os.kill(core, signal.SIGCONT)
        until(lambda: server.get("/health")[0] == 200, LATE + MARGIN)
        server.process.kill()


@pytest.mark.slow
def test_a_step_longer_than_the_timeout_is_alive(model):
    """The heart beats within the step; /health is 200 all the time, and the answer comes."""
    with Served(model, step_seconds=SLOW_STEP) as server:
        answers = []
        asking = threading.Thread(target=ask, args=(server, answers))
        asking.start()
        begun = time.monotonic()
        while asking.is_alive():
            assert server.get("/health")[0] == 200
            time.sleep(0.2)
        assert time.monotonic() - begun > TIMEOUT + LATE
        assert answers == [200]


def ask(server, answers):
    try:
        answers.append(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, timeout=90)[0])
    except (OSError, http.client.HTTPException) as error:
        answers.append(error)
