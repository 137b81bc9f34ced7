"""Signals beside Ctrl-C that reach `octavo up`: a hang-up lets requests finish, and the others end nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time

import pytest
from up_runs import manifest


@contextlib.contextmanager
def stream(run):
    """A streamed answer of a second that runs meanwhile and must not be cut off."""
    body = json.dumps({"max_tokens": 10, "pause": 0.1})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", run.port), timeout=20) as client:
        client.sendall((head + body).encode())
        got = client.recv(1000)
        yield
        while chunk := client.recv(1000):
            got += chunk
    assert b"[DONE]" in got


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_hangups_let_running_requests_finish(up, replicas):
    """A terminal that goes sends more than one: the second ends nothing at once, as a second Ctrl-C would."""
    run = up(manifest(f"replicas: {replicas}"))
    run.wait_for("  ready", replicas)
    with stream(run):
        run.process.send_signal(signal.SIGHUP)
        run.wait_for("stopping: requests have 30 s to finish")
        run.process.send_signal(signal.SIGHUP)
    assert run.process.wait(20) == 0


def test_under_nohup_a_hangup_is_ignored(up):
    """In the processes that it starts as well."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = up(manifest())
    finally:
        signal.signal(signal.SIGHUP, before)
    run.wait_for("  ready")
    run.process.send_signal(signal.SIGHUP)
    assert_it_goes_on(run)


@pytest.mark.parametrize("number", [signal.SIGUSR2, pytest.param(signal.SIGALRM, marks=pytest.mark.slow)])
def test_what_other_servers_reload_at_is_ignored(up, number):
    run = up(manifest("replicas: 2"))
    run.wait_for("  ready", 2)
    with stream(run):
        run.process.send_signal(number)
    assert_it_goes_on(run)


def test_sigusr1_dumps_stacks(up):
    run = up(manifest())
    run.wait_for("  ready")
    run.process.send_signal(signal.SIGUSR1)
    run.wait_for('octavo_operator/verbs/up_verb.py", line')
    assert_it_goes_on(run)


def assert_it_goes_on(run):
    time.sleep(0.3)
    assert run.process.poll() is None
    assert "stopping" not in run.log.read_text()
    assert run.ask("/health") == b""
