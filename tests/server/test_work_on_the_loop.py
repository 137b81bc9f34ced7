"""The work of one turn of the event loop is bounded under any request: counted, for a clock would judge the machine."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path

import pytest
from octavo_testing.served import Served, until
from raw_http import connect
from test_costly_requests import CHAT, CHATS, COMPLETION, COMPLETIONS, LARGE, Stream

ID_LISTS = [[5] * 250] * 100
SERVED = {
    "200 prompts of 200 characters": (COMPLETIONS, {**COMPLETION, "prompt": ["x" * 200] * 200}),
    "100 lists of 250 ids": (COMPLETIONS, {**COMPLETION, "prompt": ID_LISTS}),
    "128 choices": (COMPLETIONS, {**COMPLETION, "n": 128, "max_tokens": 50}),
    "128 choices with bans": (COMPLETIONS, {**COMPLETION, "n": 128, "allowed_token_ids": list(range(2, 250)) * 200}),
    "128 choices with stop strings": (
        COMPLETIONS,
        {**COMPLETION, "n": 128, "stop": ["é" * 28 + str(i) for i in range(128)]},
    ),
    "log-probabilities": (COMPLETIONS, {**COMPLETION, "n": 128, "max_tokens": 50, "logprobs": 20}),
    "log-probabilities of a chat": (CHATS, {**CHAT, "n": 128, "max_tokens": 50, "logprobs": True, "top_logprobs": 20}),
    "log-probabilities, streamed": (
        COMPLETIONS,
        {**COMPLETION, "n": 128, "max_tokens": 50, "logprobs": 20, "stream": True},
    ),
    "log-probabilities of prompts": (COMPLETIONS, {**COMPLETION, "prompt": ID_LISTS[:20], "prompt_logprobs": 20}),
    "echoes with log-probabilities": (
        COMPLETIONS,
        {**COMPLETION, "prompt": ID_LISTS[:80], "echo": True, "logprobs": 5},
    ),
    "800 bad words": (COMPLETIONS, {**COMPLETION, "bad_words": [f"word {i}" for i in range(800)]}),
    "half a million characters to /tokenize": ("/tokenize", {"prompt": "x " * 250_000, "return_token_strs": True}),
    "100,000 ids to /detokenize": ("/detokenize", {"tokens": [5] * 100_000}),
    "4,000 messages to /tokenize": ("/tokenize", {"messages": CHAT["messages"] * 4000}),
    "a message of 300,000 characters": ("/tokenize", {"messages": [{"role": "user", "content": "é" * 300_000}]}),
}


@pytest.fixture(scope="module")
def counted(fake_model, tmp_path_factory):
    """A server that notes in a file which iteration of its loop has done too much."""
    oversteps = tmp_path_factory.mktemp("counted") / "oversteps"
    with Served(
        fake_model,
        *("--served-model-name", "fake", "--load-format", "dummy", "--max-model-len", "256"),
        step_seconds=0.01,
        num_blocks=40_000,
        script=Path(__file__).with_name("serve_counted.py"),
        env={"OVERSTEPS": str(oversteps)},
    ) as server:
        yield server, oversteps


@pytest.mark.parametrize("name", [*LARGE, *SERVED])
def test_large_requests_are_cut_up_or_handed_to_a_pool(counted, name):
    """A stream beside them goes on."""
    server, oversteps = counted
    path, body = (SERVED.get(name) or LARGE[name])[:2]
    oversteps.write_text("")
    with Stream(server) as stream:
        status, answer, _ = server.post(path, json.dumps(body).encode(), timeout=120)
        assert name in LARGE or status == 200, answer
        tokens = stream.num_tokens
        until(lambda: stream.num_tokens > tokens, 20, "the stream has stopped")
    assert oversteps.read_text() == ""


@pytest.mark.parametrize("framing", ["gzip", "tiny chunks", "utf-16", "a long Content-Type"])
def test_large_bodies_are_read_piece_by_piece(counted, framing):
    """However they are packed."""
    server, oversteps = counted
    body = json.dumps({"prompt": "x" * 100_000}).encode()
    oversteps.write_text("")
    if framing == "tiny chunks":
        with connect(server, timeout=60) as connection:
            connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    else:
        headers = {
            "gzip": {"Content-Encoding": "gzip"},
            "utf-16": {"Content-Type": "text/json; charset=utf-16"},
            "a long Content-Type": {"Content-Type": "text/json; " + "a=b; " * 12_000},
        }[framing]
        data = {"gzip": gzip.compress(body), "utf-16": body.decode().encode("utf-16")}.get(framing, body)
        assert server.post("/tokenize", data, headers=headers)[0] == 200
    assert oversteps.read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/metrics", None),
        ("/tokenize", {"prompt": "x " * 4000}),
        ("/detokenize", {"tokens": [5] * 4000}),
        (COMPLETIONS, {**COMPLETION, "prompt": "x"}),
        (COMPLETIONS, {**COMPLETION, "prompt": [5] * 20_000}),
    ],
)
def test_requests_that_come_at_once_take_turns(counted, path, body):
    """None of them is large; all together would keep the loop for seconds."""
    server, oversteps = counted
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    oversteps.write_text("")
    with contextlib.ExitStack() as stack:
        stack.enter_context(Stream(server))
        connections = [stack.enter_context(connect(server, timeout=120)) for _ in range(200)]
        for connection in connections:
            connection.sendall(head.encode() + data)
        answers = {connection.recv(12) for connection in connections}
    assert len(answers) == 1, answers
    assert oversteps.read_text() == ""
