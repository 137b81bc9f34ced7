"""`use_beam_search` over HTTP: the shape of answers, what ends a search, and what can't be asked for with it."""

from __future__ import annotations

import json
import socket

import pytest
from octavo_testing.served import Served, until

COMPLETION = {"model": "fake", "prompt": "hello", "max_tokens": 4, "use_beam_search": True}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "use_beam_search": True}


def test_choices_are_the_best_answers_in_order(served):
    """`n` beams for each prompt, with their log-probabilities; each as likely as the next one, or more."""
    body = {**COMPLETION, "prompt": ["hello", "other"], "n": 3, "logprobs": 1, "temperature": 0.7, "seed": 5}
    status, answer, _ = served.post("/v1/completions", body)
    assert status == 200, answer
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    for choices in (answer["choices"][:3], answer["choices"][3:]):
        assert len({choice["text"] for choice in choices}) == 3
        sums = [sum(choice["logprobs"]["token_logprobs"]) for choice in choices]
        assert sums == sorted(sums, reverse=True)
        assert all(choice["finish_reason"] == "length" for choice in choices)
    assert answer["usage"]["completion_tokens"] == 24
    assert served.post("/v1/completions", {**body, "seed": 6, "temperature": 0})[1]["choices"] == answer["choices"]


def test_chats_have_beams_too(served):
    status, answer, _ = served.post("/v1/chat/completions", {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 2})
    assert status == 200, answer
    contents = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(contents)) == 2
    assert [len(choice["logprobs"]["content"]) for choice in answer["choices"]] == [4, 4]
    assert all(len(entry["top_logprobs"]) == 2 for entry in answer["choices"][0]["logprobs"]["content"])


def test_a_stop_token_ends_a_beam_and_a_stop_string_cuts_its_text(served):
    """The token that ended it is named, and its text is there where stop strings are included."""
    first = served.post("/v1/completions", {**COMPLETION, "logprobs": 0})[1]["choices"][0]
    text = first["text"]
    stop = served.post("/tokenize", {"prompt": text[1]})[1]["tokens"][0]
    ended = {**COMPLETION, "stop_token_ids": [stop], "length_penalty": -10}  # so that short answers are the best
    _, answer, _ = served.post("/v1/completions", ended)
    assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["stop_reason"]) == ("stop", stop)
    without = answer["choices"][0]["text"]
    _, answer, _ = served.post("/v1/completions", {**ended, "include_stop_str_in_output": True})
    assert answer["choices"][0]["text"] == without + text[1]
    _, answer, _ = served.post("/v1/completions", {**COMPLETION, "stop": text[2]})
    assert answer["choices"][0]["text"] == text[: text.index(text[2])]
    assert answer["choices"][0]["stop_reason"] == text[2]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"guided_regex": "a"}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"allowed_token_ids": [3]}, "allowed_token_ids"),
        ({"bad_words": ["a"]}, "bad_words"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"n": 65}, "n"),
        ({"length_penalty": 11}, "length_penalty"),
        ({"length_penalty": "long"}, "length_penalty"),
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
def test_what_beams_can_t_honour_is_named(served, path, body, fields, param):
    status, answer, _ = served.post(path, {**body, **fields})
    assert (status, answer["error"]["param"]) == (400, param), answer


def test_a_client_that_leaves_ends_its_search(fake_model):
    """No request of it is left, and neighbours are answered meanwhile."""
    body = json.dumps({**COMPLETION, "model": None, "max_tokens": 200, "n": 4, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with Served(fake_model, "--max-num-seqs", "8", step_seconds=0.02) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as leaving:
            leaving.sendall(head + body)
            until(lambda: server.metric("vllm:request_success_total") > 8, 20)
            assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
        server.wait_for_metric("vllm:num_requests_running", 0)
        ended = server.metric("vllm:request_success_total")
        assert ended < 400  # the search was not near its end
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
        assert server.metric("vllm:request_success_total") == ended + 1
