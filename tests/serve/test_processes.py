"""The two processes of `octavo serve` start, drain and end together, and leave nothing behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from octavo_testing.served import Served, alive, until, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tokenizer and no weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def temporary():
    """A folder for temporary files with a path short enough for a socket, empty at the end."""
    folder = Path("/tmp") / f"octavo-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    yield folder
    left = list(folder.iterdir())
    for path in left:
        path.rmdir()
    folder.rmdir()
    assert not left, "something stays in the temporary folder"


def shared_memory():
    return {path.name for path in Path("/dev/shm").iterdir()}


def ends(pids, seconds=5.0):
    until(lambda: not any(alive(pid) for pid in pids), seconds, f"{[pid for pid in pids if alive(pid)]} still live")


class Slow:
    """A long completion in a thread of its own."""

    def __init__(self, server, **fields):
        self.answer = None
        body = {"prompt": "hello", "max_tokens": 200, "stream": True, "ignore_eos": True, **fields}
        self.thread = threading.Thread(target=self._run, args=(server, body))
        self.thread.start()
        until(lambda: server.metric("vllm:num_requests_running") > 0, 10)

    def _run(self, server, body):
        try:
            self.answer = server.post("/v1/completions", body, timeout=60)
        except (OSError, http.client.HTTPException) as error:
            self.answer = error

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.answer


@pytest.mark.slow
def test_the_start_prints_each_stage_with_its_time_and_then_the_url(model, temporary):
    """While it serves, nothing lies in the temporary folder: the socket has lost its name."""
    with Served(model, temporary=temporary) as server:
        assert server.get("/health")[0] == 200
        assert list(temporary.iterdir()) == []
        stages = [line for line in server.lines if line.startswith("  ") and line.endswith(" s")]
        assert len(stages) >= 3
        assert " is served at http://127.0.0.1:" in server.lines[-1]


def test_no_torch_is_imported_in_either_process(model):
    """Nothing else is imported either that the path over the native executor does not need."""
    code = (
        "import sys, octavo_engine.cli.serve, octavo_engine.server.lifecycle, octavo_engine.core_client.engine_client;"
        "print([m for m in ('torch', 'transformers', 'kopf', 'kubernetes', 'huggingface_hub') if m in sys.modules])"
    )
    core = "import sys, octavo_engine.engine.core_process; print([m for m in ('torch','pydantic','aiohttp') if m in sys.modules])"
    for program in (code, core):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_first_signal_drains_and_exits_with_0(model, temporary, number):
    """What runs is finished, and readiness says that nothing new should come."""
    with Served(model, step_seconds=0.01, temporary=temporary) as server:
        family, slow = server.family(), Slow(server)
        server.signal(number)
        until(lambda: server.get("/health")[0] == 503, 5)
        status, text, _ = slow.join()
        assert status == 200
        assert text.rstrip().endswith("[DONE]")
        assert '"finish_reason":"length"' in text
        assert server.wait() == 0, server.output
        ends(family)


@pytest.mark.slow
def test_a_drain_that_takes_too_long_is_cut_off_with_a_reason(model):
    """`--shutdown-timeout` bounds it; clients get the reason, and the exit code is 0."""
    with Served(model, "--shutdown-timeout", "0.2", step_seconds=0.05) as server:
        slow = Slow(server)
        begun = time.monotonic()
        server.signal()
        _, text, _ = slow.join()
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert "shutting down" in events[-1]["error"]["message"]
        assert server.wait() == 0
        assert time.monotonic() - begun < 5


@pytest.mark.slow
def test_the_second_signal_ends_at_once(model, temporary):
    """However long the drain would take."""
    with Served(model, "--shutdown-timeout", "600", step_seconds=0.2, temporary=temporary) as server:
        family, slow = server.family(), Slow(server)
        server.signal(signal.SIGINT)
        until(lambda: server.get("/health")[0] == 503, 5)
        begun = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 130
        assert time.monotonic() - begun < 1
        ends(family)
        slow.join()


@pytest.mark.slow
def test_a_ctrl_c_in_the_terminal_reaches_all_processes_and_still_drains(model):
    """The whole group gets the signal; the core leaves the decision to the server."""
    with Served(model, step_seconds=0.01) as server:
        slow = Slow(server, max_tokens=50)
        os.killpg(server.process.pid, signal.SIGINT)
        status, text, _ = slow.join()
        assert status == 200
        assert '"finish_reason":"length"' in text
        assert server.wait() == 0, server.output


@pytest.mark.parametrize("busy", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_server_takes_its_engine_with_it(model, temporary, busy):
    """No orphan, no socket, no shared memory, even in the middle of a step."""
    before = shared_memory()
    with Served(model, step_seconds=0.05, temporary=temporary) as server:
        family = server.family()
        slow = Slow(server) if busy else None
        server.process.kill()
        server.process.wait()
        ends(family)
        if slow:
            slow.join()
    assert shared_memory() <= before


@pytest.mark.parametrize("busy", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_engine_ends_the_server_with_a_reason(model, temporary, busy):
    """Clients get an error instead of silence; the exit code is not 0."""
    before = shared_memory()
    with Served(model, step_seconds=0.05, temporary=temporary) as server:
        family = server.family()
        slow = Slow(server) if busy else None
        os.kill(server.core_pid, signal.SIGKILL)
        assert server.wait() == 1
        assert "the engine core ended unexpectedly (killed by signal 9)" in server.output
        assert "Traceback" not in server.output
        ends(family)
        if slow:
            answer = slow.join()
            assert '"code":503' in answer[1]
    assert shared_memory() <= before


@pytest.mark.parametrize("victim", ["server", pytest.param("core", marks=pytest.mark.slow)])
def test_a_kill_while_the_model_loads_leaves_nothing_either(model, temporary, victim):
    """The folder of the socket is there for an instant; the process that survives removes it."""
    with Served(model, wait=False, temporary=temporary, env={"FAKE_LOAD_SECONDS": "30"}) as server:
        until(lambda: any("core_process" in line for line in map(_command, server.family())), 10)
        family = server.family()
        os.kill(server.process.pid if victim == "server" else server.core_pid, signal.SIGKILL)
        assert server.wait() == (-9 if victim == "server" else 1)
        ends(family)
        until(lambda: not list(temporary.iterdir()), 5)


def _command(pid):
    from octavo_testing.served import command_of

    return command_of(pid)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_while_the_model_loads_ends_at_once(model, temporary, number):
    """There is nothing to drain."""
    with Served(model, wait=False, temporary=temporary, env={"FAKE_LOAD_SECONDS": "30"}) as server:
        until(lambda: any("started the engine" in line for line in server.lines), 10)
        family = server.family()
        server.signal(number)
        assert server.wait(5) == 128 + number
        assert "Traceback" not in server.output
        ends(family)


def test_a_device_that_is_lost_ends_both_with_its_reason(model):
    """Nothing in that process can be trusted any more."""
    with Served(model) as server:
        status, answer, _ = server.post("/v1/completions", {"prompt": '"lost'})
        assert (status, "device is lost" in answer["error"]["message"]) == (503, True)
        assert server.wait() == 1
        assert "the device is lost: a test asked for it" in server.output


def test_a_model_that_cannot_be_loaded_is_one_sentence(model, temporary):
    """Exit code 1 and no traceback."""
    with Served(model, wait=False, temporary=temporary, env={"FAKE_LOAD_FAILURE": "x.gguf is cut short"}) as server:
        assert server.wait() == 1
        assert server.lines[-1] == "octavo serve: x.gguf is cut short"
        assert "Traceback" not in server.output


def test_a_port_in_use_is_reported_before_the_model_loads(model):
    """One sentence that says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with Served(model, "--port", port, wait=False, env={"FAKE_LOAD_SECONDS": "30"}) as server:
            assert server.wait(10) == 1
            assert server.output == (
                f"octavo serve: can't listen on 127.0.0.1, port {port}: Address already in use; choose another --port"
            )


def test_a_host_that_is_no_address_is_one_sentence(model):
    """A name that is not known is refused as well."""
    with Served(model, "--host", "no.such.host.invalid", wait=False) as server:
        assert server.wait(20) == 1
        assert len(server.lines) == 1
        assert "--host no.such.host.invalid" in server.output


@pytest.mark.slow
def test_it_listens_on_a_unix_socket(model, temporary):
    """The flag is vLLM's --uds; what a killed server left behind is replaced."""
    path = temporary / "api"
    for _ in range(2):
        with Served(model, "--uds", str(path), wait=False, temporary=temporary) as server:
            until(lambda server=server: "is served at" in server.output, 20)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                assert b" 200 " in connection.recv(4096).partition(b"\r\n")[0]
            server.process.kill()
            server.process.wait()
    path.unlink()


@pytest.mark.slow
def test_health_is_the_engines_heartbeat(model):
    """A core that is stopped answers nothing, and /health says so; once it goes on, all is well again."""
    with Served(model, "--health-timeout", "1.5") as server:
        core = server.core_pid
        assert server.get("/health")[0] == 200
        os.kill(core, signal.SIGSTOP)
        until(lambda: server.get("/health")[0] == 503, 6)
        assert "silent" in server.get("/health")[1]["status"]
        os.kill(core, signal.SIGCONT)
        until(lambda: server.get("/health")[0] == 200, 6)


@pytest.mark.slow
def test_health_takes_a_slow_step_for_alive(model):
    """In the middle of a step that takes several times the timeout the core counts, and /health sees it."""
    with Served(model, "--health-timeout", "1.5", step_seconds=5) as server:
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, timeout=60))
        )
        asking.start()
        while asking.is_alive():
            assert server.get("/health")[0] == 200
            time.sleep(0.2)
        assert answers[0][0] == 200
