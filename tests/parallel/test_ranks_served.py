"""`octavo serve` over several ranks: it answers, and when one of them dies, all end at once and say why."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading

import pytest
from octavo_testing.served import TINY_CONFIG, Served, alive, command_of, until
from openai import OpenAI

SECONDS = 10.0  # in which the death of a rank ends everything
TINY = TINY_CONFIG | {"max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model with made-up weights, of a byte a token."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


def start(model, *arguments, wait=True):
    dummy = () if str(model).startswith("package:") else ("--load-format", "dummy")
    server = Served(
        model, *dummy, "--executor", "torch", "--kv-cache-memory-bytes", "64M", *arguments, real=True, wait=False
    )
    if wait and not server.wait_until_served(180):
        server.close()
        raise AssertionError(server.output)
    return server


def ranks_of(server):
    """The process ids of the ranks that a server has started, in their order."""
    return sorted(
        pid for pid in server.family() if "core_process" in command_of(pid) or "rank_process" in command_of(pid)
    )


def ends_with(server, words, code=1):
    """Assert that it ends in time with that exit code, and that `words` are in the last line that it prints."""
    assert server.wait(SECONDS) == code, server.output
    assert words in server.lines[-1], server.output


def is_healthy(server):
    """True if `/health` says so; one that has closed its port says nothing."""
    try:
        return server.get("/health")[0] == 200
    except OSError:
        return False


class LongStream:
    """A completion that would take minutes, in a thread; `events` are what has come of it."""

    def __init__(self, server):
        self.events = []
        self.thread = threading.Thread(target=self._run, args=(server,))
        self.thread.start()
        until(lambda: self.events, 60)

    def _run(self, server):
        with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client, contextlib.suppress(Exception):
            for event in client.completions.create(
                model="m", prompt="Once", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
            ):
                self.events.append(event)


@pytest.mark.slow
def test_a_real_model_over_three_ranks_answers_and_ends_with_any_of_them(smollm2):
    """The tutorial's requests; then a rank is killed in the middle of one."""
    with start(smollm2.model, "--served-model-name", "m", "-tp", "3", "--max-model-len", "2048") as server:
        assert "3 ranks" in server.lines[-1]
        ranks = ranks_of(server)
        assert len(ranks) == 3
        with OpenAI(base_url=f"{server.url}/v1", api_key="x", timeout=120) as client:
            messages = [{"role": "user", "content": "What is the capital of France?"}]
            ask = {"model": "m", "messages": messages, "temperature": 0, "max_tokens": 10}
            whole = client.chat.completions.create(**ask).choices[0].message.content
            pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True)]
            assert whole == "The capital of France is Paris."
            assert "".join(pieces) == whole
            done = client.completions.create(model="m", prompt=["Containers are", "Pods are"], max_tokens=3)
            assert all(choice.text.strip() for choice in done.choices)
        stream = LongStream(server)
        os.kill(ranks[2], signal.SIGKILL)
        until(lambda: not is_healthy(server), SECONDS)
        ends_with(server, "rank 2 of 3 ended unexpectedly (killed by signal 9)")
        assert not any(alive(pid) for pid in ranks)
        stream.thread.join(10)
        assert not stream.thread.is_alive()


@pytest.mark.slow
def test_the_death_of_rank_0_ends_the_others(tiny):
    """While nothing runs."""
    with start(tiny, "-tp", "2") as server:
        ranks = ranks_of(server)
        os.kill(ranks[0], signal.SIGKILL)
        ends_with(server, "rank 0 of 2 ended unexpectedly (killed by signal 9)")
        assert not any(alive(pid) for pid in ranks)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_a_rank_while_the_model_loads_ends_the_start(tiny, victim):
    """This holds before and after the ranks have met."""
    with start(tiny, "-tp", "2", wait=False) as server:
        until(lambda: len(ranks_of(server)) == 2, 20)
        os.kill(ranks_of(server)[victim], signal.SIGKILL)
        ends_with(server, f"rank {victim} of 2 ended unexpectedly (killed by signal 9)")


def test_ranks_do_not_outlive_the_server(tiny):
    """However it ends."""
    with start(tiny, "-tp", "2", wait=False) as server:
        until(lambda: len(ranks_of(server)) == 2, 20)
        ranks = ranks_of(server)
        server.signal(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in ranks), SECONDS)


@pytest.mark.slow
def test_a_stage_that_hangs_within_a_step_is_found_by_health(tiny):
    """Its thread that meets the others hangs too: nothing beats, though rank 0 waits as it does for a slow one."""
    with start(tiny, "--served-model-name", "m", "-pp", "2", "--health-timeout", "3") as server:
        stream = LongStream(server)
        (_, last) = ranks_of(server)
        assert is_healthy(server)
        os.kill(last, signal.SIGSTOP)
        until(lambda: not is_healthy(server), SECONDS)
        assert "silent" in server.get("/health")[1]["status"]
        os.kill(last, signal.SIGKILL)
        ends_with(server, "rank 1 of 2 ended unexpectedly (killed by signal 9)")
        stream.thread.join(10)


def test_sizes_that_do_not_divide_end_the_start_with_the_numbers(tiny):
    with start(tiny, "-tp", "3", wait=False) as server:
        assert server.wait(60) == 1
        assert "--tensor-parallel-size 3 does not divide the model's 4 attention heads" in server.lines[-1]


@pytest.mark.slow
def test_two_nodes_serve_together_and_end_together(tiny):
    """The second one starts first, waits, and serves no HTTP; it ends in good order with the first."""
    with two_nodes(tiny, "-tp", "2") as (first, second):
        assert second.url == ""
        status, answer, _ = first.post("/v1/completions", {"prompt": "hello", "max_tokens": 5, "ignore_eos": True})
        assert (status, answer["usage"]["completion_tokens"]) == (200, 5)
        first.signal()
        assert first.wait(30) == 0, first.output
        ends_with(second, "the engine has ended", code=0)


@pytest.mark.slow
def test_a_rank_that_dies_on_one_node_ends_both(tiny):
    """This time the ranks are stages, and nothing runs: each node reports the loss that it has seen."""
    with two_nodes(tiny, "-pp", "2") as (first, second):
        (rank,) = ranks_of(second)
        assert first.post("/v1/completions", {"prompt": "hello", "max_tokens": 3})[0] == 200
        os.kill(rank, signal.SIGKILL)
        ends_with(first, "lost touch with each other")
        ends_with(second, "rank 1 of 2 ended unexpectedly (killed by signal 9)")


@contextlib.contextmanager
def two_nodes(model, *arguments):
    """Two groups of processes on the loopback, as two machines would run them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = (*arguments, "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(port))
    with (
        start(model, *where, "--node-rank", "1", "--headless", wait=False) as second,
        start(model, *where) as first,
    ):
        yield first, second
