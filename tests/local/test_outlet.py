"""The output of `octavo up` holds up nothing, whatever becomes of the terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
import urllib.request

import pytest
from up_runs import FAKE_ENGINE, RUNNER, free_port, manifest

from octavo_operator.local.outlet import Outlet

pytestmark = pytest.mark.timeout(60)


def test_text_arrives_in_order():
    stream = io.StringIO()
    with Outlet(stream) as outlet:
        for number in range(100):
            print(number, file=outlet, flush=True)
    assert stream.getvalue() == "".join(f"{number}\n" for number in range(100))


def test_what_finds_no_room_is_dropped_and_counted():
    """While the pipe is full nothing waits, and the number of dropped lines is printed afterwards."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream, Outlet(stream, waiting=2) as outlet:
        long = "x" * (1 << 16)
        for number in range(20):
            print(f"{number} {long}", file=outlet, flush=True)
        seen = b""
        while b"were left out" not in seen:
            seen += os.read(reading, 1 << 16)
            print("more", file=outlet, flush=True)
    os.close(reading)
    assert seen.startswith(b"0 xxx")


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream, Outlet(stream) as outlet:
        print("hello", file=outlet, flush=True)
        outlet._thread.join(10)
        print("hello again", file=outlet, flush=True)


def test_signs_that_the_terminal_lacks_are_escaped():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="ascii", errors="backslashreplace") as stream, Outlet(stream) as outlet:
        print("größer", file=outlet, flush=True)
    assert os.read(reading, 100) == b"gr\\xf6\\xdfer\n"
    os.close(reading)


@pytest.mark.parametrize("output", ["stopped", "gone"])
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_replicas_start_and_serve_whatever_becomes_of_the_terminal(tmp_path, output, replicas):
    """Ctrl-S stops a terminal, as does a pager; `| head` goes away. The replicas print more than any buffer holds."""
    path, port = tmp_path / "m.yaml", free_port()
    path.write_text(manifest(f"replicas: {replicas}", FAKE_CHATTER="5000"))
    kept, given = pty.openpty() if output == "stopped" else os.pipe()
    if output == "gone":
        os.close(kept)
    runner = RUNNER.format(engine=FAKE_ENGINE)
    process = subprocess.Popen(
        [sys.executable, "-c", runner, "-f", str(path), "--port", str(port)],
        stdout=given,
        stderr=given,
        env={**os.environ, "TERM": "dumb", "OCTAVO_CACHE": str(tmp_path)},
    )
    os.close(given)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/about", timeout=20) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        if output == "stopped":
            os.close(kept)
