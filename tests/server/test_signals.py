"""Signals beside those that stop and start: none of them cuts an answer off."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from served import Served, until

BODY = {"prompt": "hello", "max_tokens": 60, "ignore_eos": True}


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_the_group_cuts_no_answer_off(fake_model, number):
    """A terminal that is gone ends the server as Ctrl-C does, after what runs; the others say nothing to it."""
    with Served(fake_model, step_seconds=0.03) as server:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", BODY)))
        asking.start()
        until(lambda: server.metric("vllm:num_requests_running") == 1, 20)
        if number == signal.SIGHUP:
            os.killpg(server.process.pid, number)
        else:
            server.signal(number)
        asking.join(30)
        ((status, answer, _),) = answers
        assert (status, answer["usage"]["completion_tokens"]) == (200, 60)
        if number == signal.SIGHUP:
            assert server.wait(30) == 0
        else:
            assert server.get("/health")[0] == 200
