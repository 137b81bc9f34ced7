"""The renderer's process may end at any time: no request is at fault, and none pays for it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from octavo_engine.errors import RequestError
from octavo_engine.text import template_process
from octavo_engine.text.template_process import TemplateProcess

ASKED = {"do": "format", "template": "{{ messages }}"}


@pytest.fixture
def process():
    process = TemplateProcess(20.0)
    yield process
    process.close()


def test_a_renderer_that_died_idle_is_started_again(process):
    """The next chat is rendered, without an error for it."""
    assert process.ask(ASKED, "messages") == {"format": "string"}
    running = process._process
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert process.ask(ASKED, "messages") == {"format": "string"}
    assert process._process is not running


def test_a_renderer_that_is_killed_at_work_is_replaced_and_asked_again(process):
    """The kernel kills where memory is short: the request is rendered by the next process."""
    assert process.ask(ASKED, "messages") == {"format": "string"}
    running = process._process
    os.kill(running.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(process.ask, ASKED, "messages")
        time.sleep(0.2)
        os.kill(running.pid, signal.SIGKILL)
        assert asked.result(60) == {"format": "string"}
    assert process._process is not running


def test_a_renderer_that_was_stopped_is_replaced_and_asked_again(monkeypatch):
    """A chat that no pipe holds is asked again too; one whose successor hangs too gets a 503."""
    monkeypatch.setattr(template_process, "KILL_AFTER", 0.0)
    process = TemplateProcess(2.0)
    large = {**ASKED, "template": "{# " + "x" * 300_000 + " #}"}
    assert process.ask(ASKED, "messages") == {"format": "string"}
    os.kill(process._process.pid, signal.SIGSTOP)
    assert process.ask(large, "messages") == {"format": "string"}

    def stop(process, *_):
        os.kill(process.pid, signal.SIGSTOP)
        raise TimeoutError

    monkeypatch.setattr(template_process, "_exchange", stop)
    with pytest.raises(RequestError, match="does not answer") as refused:
        process.ask(ASKED, "messages")
    assert refused.value.status == 503
    process.close()


def test_a_template_that_ends_its_process_each_time_is_refused(process):
    """The process is asked a second time and no more."""
    started = []
    run = process._running
    process._running = lambda: started.append(run()) or os.kill(started[-1].pid, signal.SIGKILL) or started[-1]
    with pytest.raises(RequestError, match="status -9"):
        process.ask(ASKED, "messages")
    assert len(started) == 2


def test_a_renderer_outlives_the_signal_that_begins_a_drain(process):
    """SIGTERM to the process group is the server's to answer; chats are rendered until it has drained."""
    assert process.ask(ASKED, "messages") == {"format": "string"}
    running = process._process
    os.kill(running.pid, signal.SIGTERM)
    assert process.ask(ASKED, "messages") == {"format": "string"}
    assert process._process is running
