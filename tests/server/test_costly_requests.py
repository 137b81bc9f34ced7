"""No request can cost more than it may: what is too large is refused before it is paid for, and streams go on beside it."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import pytest
from octavo_testing.served import Served, until

MIB = 2**20
COMPLETION = {"prompt": "hello", "max_tokens": 2}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
TEXT = {"type": "text", "text": "a"}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def paced(fake_model):
    """A server with a step of 10 ms."""
    with Served(fake_model, "--served-model-name", "fake", step_seconds=0.01, num_blocks=5000) as server:
        yield server


def resident(server, field="VmHWM") -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+)", status)[0]) * 1024


class Stream:
    """A neighbour that streams for as long as the test lasts."""

    def __init__(self, server) -> None:
        self.num_tokens = 0
        self._server = server
        self._end = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        until(lambda: self.num_tokens > 2, 20)
        return self

    def __exit__(self, *_):
        self._end = True
        self._thread.join()

    def _run(self) -> None:
        host, port = self._server.url.removeprefix("http://").split(":")
        body = json.dumps({"prompt": "a", "max_tokens": 200, "stream": True}).encode()
        while not self._end:
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
                while not self._end and (data := connection.recv(65536)):
                    self.num_tokens += data.count(b"data: {")


def called(arguments: str) -> dict[str, object]:
    """A message that calls a tool."""
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


LARGE = {
    "ids, the last one wrong": (COMPLETIONS, {**COMPLETION, "prompt": [5] * 100_000 + [-100]}, 400, "prompt"),
    "600,000 ids, the last one wrong": (COMPLETIONS, {**COMPLETION, "prompt": [5] * 600_000 + [-100]}, 400, None),
    "lists of wrong ids": (COMPLETIONS, {**COMPLETION, "prompt": [[-1]] * 20_000}, 400, "prompt"),
    "a long bad word": (COMPLETIONS, {**COMPLETION, "bad_words": ["x" * 1_500_000]}, 400, "bad_words"),
    "many bad words": (COMPLETIONS, {**COMPLETION, "bad_words": ["x"] * 50_000}, 400, "bad_words"),
    "1,000 prompts": (COMPLETIONS, {**COMPLETION, "prompt": ["x" * 1500] * 1000}, 400, "prompt"),
    "100 long prompts": (COMPLETIONS, {**COMPLETION, "prompt": ["x" * 15_000] * 100}, 400, "prompt"),
    "allowed ids": (COMPLETIONS, {**COMPLETION, "allowed_token_ids": [5] * 600_000, "n": 8}, 400, None),
    "stop strings": (COMPLETIONS, {**COMPLETION, "stop": ["x"] * 100_000}, 400, "stop"),
    "a long stop string": (COMPLETIONS, {**COMPLETION, "stop": "x" * 1_500_000}, 400, "stop"),
    "stop tokens": (COMPLETIONS, {**COMPLETION, "stop_token_ids": [5] * 100_000}, 400, "stop_token_ids"),
    "biases": (COMPLETIONS, {**COMPLETION, "logit_bias": {str(i): "x" for i in range(30_000)}}, 400, "logit_bias"),
    "a bias key": (COMPLETIONS, {**COMPLETION, "logit_bias": {"1" * 5000: 1}}, 400, "logit_bias." + "1" * 20 + "…"),
    "messages": (CHATS, {**CHAT, "messages": CHAT["messages"] * 10_000}, 400, "messages"),
    "wrong messages": (CHATS, {**CHAT, "messages": [5] * 100_000}, 400, "messages[0]"),
    "parts": (CHATS, {**CHAT, "messages": [{"role": "user", "content": [TEXT] * 200_000}]}, 413, None),
    "a long message": (CHATS, {**CHAT, "messages": [{"role": "user", "content": "x" * 1_500_000}]}, 400, "messages"),
    "tool arguments": (CHATS, {**CHAT, "messages": [called("[" + "[],[]," * 100_000 + "1]")]}, 400, "messages"),
    "deep tool arguments": (
        CHATS,
        {**CHAT, "messages": [called("[" * 8000 + "]" * 8000)]},
        400,
        "messages[0].tool_calls[0].function.arguments",
    ),
    "truncated": (COMPLETIONS, {**COMPLETION, "prompt": "x" * 1_500_000, "truncate_prompt_tokens": 9}, 400, "prompt"),
    "a text to tokenize": ("/tokenize", {"prompt": "x" * 1_500_000}, 400, "prompt"),
    "8 MB to tokenize": ("/tokenize", {"prompt": "x" * 8_000_000}, 413, None),
    "ids to detokenize": ("/detokenize", {"tokens": [5] * 600_000}, 400, None),
    "an unknown field": (
        COMPLETIONS,
        {**COMPLETION, "metadata": {"x": "y" * 1_500_000}, "user": "z" * 300_000},
        200,
        None,
    ),
    "empty objects": (COMPLETIONS, {**COMPLETION, "metadata": [{}] * 500_000}, 400, None),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_request_is_bounded_and_a_stream_goes_on(paced, name):
    """The request is answered or refused, by field; the process takes little more memory, and the stream never waits
    long.
    """
    path, body, expected, param = LARGE[name]
    data = json.dumps(body).encode()
    with Stream(paced) as stream:
        Path(f"/proc/{paced.process.pid}/clear_refs").write_text("5")
        before, slow = resident(paced), paced.metric("octavo:event_loop_delay_seconds_bucket", le="1.0")
        status, answer, _ = paced.post(path, data)
        assert (status, status == 200 or answer["error"]["param"]) == (expected, expected == 200 or param), answer
        assert resident(paced) - before < 120 * MIB
        tokens = stream.num_tokens
        until(lambda: stream.num_tokens > tokens, 5, "the stream has stopped")
    beats = paced.metric("octavo:event_loop_delay_seconds_bucket", le="+Inf")
    assert beats - paced.metric("octavo:event_loop_delay_seconds_bucket", le="1.0") < 1, slow


def test_deep_nesting_and_huge_numbers_are_no_json(paced):
    """Neither costs time: both are refused while they are read."""
    for value in (b"[" * 1_000_000 + b"]" * 1_000_000, b"7" * 1_500_000):
        status, answer, _ = paced.post(COMPLETIONS, b'{"prompt": "a", "seed": ' + value + b"}")
        assert (status, answer["error"]["param"]) == (400, None)


def test_what_only_all_sequences_together_make_too_much_is_refused(paced):
    """Each of them is let in alone."""
    for fields, param in (
        ({"prompt": ["x"] * 289}, "prompt"),
        ({"prompt": ["x"] * 3, "n": 100}, "prompt"),
        ({"allowed_token_ids": list(range(2, 258)), "prompt": ["x"] * 200, "n": 1}, None),
        ({"prompt": ["x"] * 256, "logprobs": 20, "max_tokens": 200}, "max_tokens"),
        ({"prompt": ["x"] * 256, "logprobs": 20, "max_tokens": 2}, None),
        ({"prompt": "x" * 250, "prompt_logprobs": 20, "n": 26, "max_tokens": 1}, "prompt_logprobs"),
    ):
        status, answer, _ = paced.post(COMPLETIONS, {**COMPLETION, **fields})
        assert (status, status == 200 or answer["error"]["param"]) == (400 if param else 200, param or True), answer


@pytest.mark.slow
def test_a_full_queue_refuses_before_the_body_is_read(fake_model):
    """429 needs no byte of it, and says when to come back."""
    with Served(fake_model, "--max-num-seqs", "1", "--max-num-queued-reqs", "1", step_seconds=0.1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({**COMPLETION, "max_tokens": 100, "n": 2}).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with (
            socket.create_connection((host, int(port))) as first,
            socket.create_connection((host, int(port))) as second,
        ):
            first.sendall(head + body)
            until(lambda: server.metric("vllm:num_requests_running") == 1, 10)
            until(lambda: server.metric("vllm:num_requests_waiting") == 1, 10)
            second.settimeout(10)
            second.sendall(head)
            answer = second.recv(65536)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert re.search(rb"Retry-After: [1-9]", answer)


@pytest.mark.parametrize("stream", [False, True])
def test_each_choice_shows_the_prompts_log_probabilities(paced, stream):
    """Without a stream only the first choice has them computed; the others show the same."""
    body = {"prompt": "hello", "n": 3, "max_tokens": 2, "prompt_logprobs": 1, "stream": stream}
    _, answer, _ = paced.post(COMPLETIONS, body)
    if stream:
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        assert (
            sum("prompt_logprobs" in e["choices"][0] and bool(e["choices"][0]["prompt_logprobs"]) for e in events) == 3
        )
    else:
        first, *others = (choice["prompt_logprobs"] for choice in answer["choices"])
        assert len(first) == 5
        assert others == [first, first]


@pytest.mark.slow
def test_cached_tokens_reveal_nothing_of_others(fake_model):
    """The count is that of the first choice, and of what the same key has sent."""
    with Served(fake_model, "--api-key", "one", "two", "--enable-prompt-tokens-details") as server:

        def cached(key: str, **fields) -> int:
            body = {"prompt": "a prompt of some length", "max_tokens": 1, **fields}
            _, answer, _ = server.post(COMPLETIONS, body, headers={"Authorization": f"Bearer {key}"})
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert cached("one", n=4) == 0, "the other choices find what the first has computed"
        assert cached("one") > 0
        assert cached("two") == 0
        assert cached("two") > 0
        assert cached("one", cache_salt="x") == 0
