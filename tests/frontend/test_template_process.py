"""The renderer's process may end at any time: no request is at fault, and none pays for it."""

from __future__ import annotations

import os
import signal

import pytest

from octavo_engine.frontend.template_process import TemplateProcess

ASKED = {"do": "format", "template": "{{ messages }}"}


@pytest.fixture
def process():
    process = TemplateProcess(20.0)
    yield process
    process.close()


def test_a_renderer_that_died_idle_is_started_again(process):
    """The next chat is rendered; it is not told of the death."""
    assert process.ask(ASKED, "messages") == {"format": "string"}
    running = process._process
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert process.ask(ASKED, "messages") == {"format": "string"}
    assert process._process is not running


def test_a_renderer_outlives_the_signal_that_begins_a_drain(process):
    """SIGTERM to the process group is the server's to answer; chats are rendered until it has drained."""
    assert process.ask(ASKED, "messages") == {"format": "string"}
    running = process._process
    os.kill(running.pid, signal.SIGTERM)
    assert process.ask(ASKED, "messages") == {"format": "string"}
    assert process._process is running
