"""`octavo serve` over a GPU that fails: `/health` never says 200 for an engine that can't serve, and the end is quick."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from faulty_engine import POISON
from octavo_testing.served import TINY_CONFIG, Served

SECONDS = 8.0  # from a fault to the end of the process
CORRUPT = "the GPU's context is corrupt: CUDA error: an illegal memory access was encountered"
ENDS = {
    "illegal address": CORRUPT,
    "replay": CORRUPT,
    "copies to the host": CORRUPT,
    "scores of prompts": "no request can be run any more: RuntimeError: Triton Error [CUDA]: an illegal instruction",
    "no kernel runs": "no request can be run any more: RuntimeError: Triton Error [CUDA]: device kernel image is invalid",
    "collectives": "the ranks can't exchange numbers any more: NCCL error in",
}
STARTS = {
    "weights": "CUDA error: an illegal memory access was encountered",
    "capture": CORRUPT,
    "memory": "there is not enough memory for the model and its largest step: CUDA out of memory. Tried to allocate",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    return folder


def start(model, fault, *arguments, wait=True):
    server = Served(
        model,
        *("--load-format", "dummy", "--executor", "torch", "--kv-cache-memory-bytes", "16M", "--max-num-seqs", "4"),
        *arguments,
        script=Path(__file__).with_name("faulty_engine.py"),
        env={"OCTAVO_TEST_FAULT": fault},
        wait=False,
    )
    if wait and not server.wait_until_served(180):
        server.close()
        raise AssertionError(server.output)
    return server


class HealthWatch:
    """Asks for `/health` all the time; `well` are the moments at which it said 200."""

    def __init__(self, server):
        self.server, self.well = server, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._over.wait(0.02):
            asked = time.monotonic()  # what is said later was true then
            try:
                status = self.server.get("/health")[0] if self.server.url else 0
            except OSError:
                status = 0
            if status == 200:
                self.well.append(asked)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def ask_in_vain(server):
    with pytest.raises(OSError):
        complete(server, [POISON, 4, 5])


def complete(server, prompt):
    return server.post("/v1/completions", {"prompt": prompt, "max_tokens": 4, "ignore_eos": True, "temperature": 0})


@pytest.mark.slow
@pytest.mark.parametrize("fault", ENDS)
def test_a_gpu_that_fails_for_good_ends_the_server(tiny, fault):
    """Within seconds, with the reason; the request that met it gets an error, and so does one beside it."""
    with start(tiny, fault) as server, HealthWatch(server) as watch:
        assert complete(server, [3, 4, 5])[0] == 200
        assert server.get("/health")[0] == 200
        begin = time.monotonic()
        try:
            status, answer, _ = complete(server, [POISON, 4, 5])
        except OSError:
            status = 503  # it was gone before it could answer
        assert status >= 500, answer
        assert server.wait(SECONDS) == 1, server.output
        assert ENDS[fault] in server.lines[-1]
        assert not [moment for moment in watch.well if moment > begin + 2.0]
        assert watch.well  # it asked


@pytest.mark.slow
@pytest.mark.parametrize("fault", STARTS)
def test_a_gpu_that_fails_at_the_start_ends_it(tiny, fault):
    """The server was never ready."""
    with start(tiny, fault, wait=False) as server, HealthWatch(server) as watch:
        assert server.wait(180) == 1, server.output
        assert STARTS[fault] in server.lines[-1]
        assert not watch.well


@pytest.mark.slow
def test_a_gpu_that_hangs_makes_the_server_unhealthy_and_stays_so(tiny):
    """No call returns, so nothing can end the step: a probe of `/health` has to restart the process."""
    with start(tiny, "hang", "--health-timeout", "1") as server:
        assert complete(server, [3, 4, 5])[0] == 200
        asking = threading.Thread(target=ask_in_vain, args=(server,))
        asking.start()
        end = time.monotonic() + SECONDS
        while server.get("/health")[0] == 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        for _ in range(20):
            assert server.get("/health")[0] == 503
            time.sleep(0.05)
        server.process.kill()
        asking.join(10)


@pytest.mark.slow
def test_a_fault_that_passes_costs_nothing(tiny):
    """The step is tried again: the server goes on, and nothing shows."""
    with start(tiny, "once") as server, HealthWatch(server) as watch:
        expected = complete(server, [POISON + 1, 4, 5])[1]["choices"][0]["text"]
        status, answer, _ = complete(server, [POISON, 4, 5])
        assert (status, answer["usage"]["completion_tokens"]) == (200, 4)
        assert "failed as a whole" in server.output
        assert complete(server, [POISON + 1, 4, 5])[1]["choices"][0]["text"] == expected
        assert server.get("/health")[0] == 200
    assert watch.well
