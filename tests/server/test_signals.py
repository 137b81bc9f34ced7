"""Signals beside those that stop and start: none of them cuts an answer off, whichever processes they reach."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from octavo_testing.served import Served, alive, command_of, until

BODY = {"prompt": "hello", "max_tokens": 60, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


@contextlib.contextmanager
def completion(server):
    """A completion that runs meanwhile and must not be cut off."""
    answers = []
    asking = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", BODY)))
    asking.start()
    until(lambda: server.metric("vllm:num_requests_running") == 1, 20)
    yield
    asking.join(30)
    ((status, answer, _),) = answers
    assert (status, answer["usage"]["completion_tokens"]) == (200, 60)


@contextlib.contextmanager
def ignoring(number):
    """Start processes with this signal ignored, as nohup does."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_hangups_drain(fake_model):
    """A terminal that goes sends more than one: they end the server as one SIGTERM does, after what runs."""
    with Served(fake_model, step_seconds=0.03) as server:
        with completion(server):
            os.killpg(server.process.pid, signal.SIGHUP)
            until(lambda: server.get("/health")[0] == 503, 5)
            os.killpg(server.process.pid, signal.SIGHUP)
        assert server.wait(30) == 0


@pytest.mark.slow
def test_a_drain_needs_no_one_who_reads_its_output(fake_model):
    """What it prints once the terminal is gone fails, and ends nothing."""
    with Served(fake_model, step_seconds=0.03) as server:
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), server.process.stdout.fileno())
        server.signal(signal.SIGUSR1)  # output, at which the reader notices
        server._reader.join(5)
        assert not server._reader.is_alive()
        with completion(server):
            server.signal(signal.SIGHUP)
            until(lambda: server.get("/health")[0] == 503, 5)
        server.wait(30)


@pytest.mark.slow
def test_a_server_under_nohup_outlives_its_terminal(fake_model):
    """SIGHUP that is ignored at the start stays ignored, in the core too."""
    with ignoring(signal.SIGHUP), Served(fake_model, step_seconds=0.03) as server:
        with completion(server):
            os.killpg(server.process.pid, signal.SIGHUP)
        assert server.get("/health")[0] == 200
        assert alive(server.core_pid)


@pytest.mark.slow
def test_sigusr1_dumps_the_stacks_of_server_and_core(fake_model):
    """The dump has all threads, in the middle of a step; both go on."""
    with Served(fake_model, step_seconds=0.03) as server:
        with completion(server):
            os.killpg(server.process.pid, signal.SIGUSR1)
            until(lambda: 'core_process.py", line' in server.output, 5)
            until(lambda: 'lifecycle.py", line' in server.output, 5)
        assert "Thread 0x" in server.output
        assert server.get("/health")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGALRM])
def test_what_other_servers_reload_at_is_ignored(fake_model, number):
    """The renderer of chats, in a session of its own, and the core ignore it as well."""
    with Served(fake_model, step_seconds=0.03) as server:
        assert server.post("/v1/chat/completions", CHAT)[0] == 200
        family = server.family()
        with completion(server):
            os.killpg(server.process.pid, number)
            for pid in family:
                os.kill(pid, number)
        assert server.post("/v1/chat/completions", CHAT)[0] == 200
        assert server.family() == family
        assert any("template_worker" in command_of(pid) for pid in family)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM])
def test_signals_while_it_starts_end_nothing(fake_model, number):
    """Interpreters that start have no handlers yet: what starts them sees to it."""
    with Served(fake_model, wait=False, env={"FAKE_LOAD_SECONDS": "1"}) as server:
        until(lambda: any("core_process" in command_of(pid) for pid in server.family()), 20)
        while not server.url and server.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.05)
        assert server.url, server.output
        assert server.get("/health")[0] == 200
