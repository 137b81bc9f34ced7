"""A faulty request is answered in the OpenAI shape, with the status and the field; nothing is ignored silently."""

from __future__ import annotations

import gzip
import json
import socket

import pytest
from octavo_testing.served import Served

COMPLETION = {"model": "fake", "prompt": "hello", "max_tokens": 4}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
PATHS = {"/v1/completions": COMPLETION, "/v1/chat/completions": CHAT}


def refused(served, path, body, **kwargs):
    status, answer, _ = served.post(path, body, **kwargs)
    assert set(answer) == {"error"}, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return status, answer["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "warm"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 2),
        ("n", 0),
        ("n", 129),
        ("max_tokens", -1),
        ("max_tokens", 4096),
        ("min_tokens", 5),
        ("seed", 2**64),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("stop", [""]),
        ("stop", ["x"] * 129),
        ("stop_token_ids", [9999]),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("prompt_logprobs", 21),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", 9999),
        ("cache_salt", ""),
        ("bad_words", [""]),
        ("prompt_embeds", "AAAA"),
        ("logit_bias", {"9999": 1}),
        ("logit_bias", {"one": 1}),
        ("stream_options", 5),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_field_out_of_bounds_is_named(served, path, field, value):
    """Status 400, and `param` is the field or a path below it."""
    status, error = refused(served, path, {**PATHS[path], field: value})
    assert status == 400, error
    assert error["param"].startswith(field) or (field, error["param"]) == ("bad_words", "bad_words[0]"), error
    assert error["type"] == "BadRequestError"
    assert error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "fake"}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [9999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "x" * 300}, "prompt"),
        ({"prompt": "x" * 250, "max_tokens": 10}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": ["x"] * 100, "n": 100}, "prompt"),
    ],
)
def test_completions_name_what_is_wrong(served, body, param):
    """The fields that only completions have."""
    status, error = refused(served, "/v1/completions", body)
    assert (status, error["param"]) == (400, param), error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),  # no format of calls is known
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": ["auto"]}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "alloy"}}, "audio"),
    ],
)
def test_chats_name_what_is_wrong(served, fields, param):
    """The fields that only chats have."""
    status, error = refused(served, "/v1/chat/completions", {**CHAT, **fields})
    assert status == 400, error
    assert param is None or error["param"] == param


@pytest.mark.parametrize("path", PATHS)
def test_fields_without_effect_and_unknown_ones_are_accepted(served, path):
    """OpenAI and vLLM accept them as well."""
    extra = {
        "user": "me",
        "no_such_field": 1,
        "response_format": {"type": "text"},
        "length_penalty": 1.2,
        "guided_json": None,
        "tool_choice": "none",
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "spaces_between_special_tokens": True,
        "stop": None,
        "logit_bias": None,
    }
    assert served.post(path, {**PATHS[path], **extra})[0] == 200


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(served, data):
    """Nothing that can be sent is a bug of the server."""
    status, error = refused(served, "/v1/completions", data)
    assert (status, error["param"]) == (400, None)


@pytest.mark.parametrize(
    "chat",
    [
        '{"messages": [{"role": "user", "content": "hello", "n": NUMBER}]}',
        '{"messages": [{"role": "user", "content": [{"type": NUMBER}]}]}',
        '{"messages": [{"role": "user", "content": "hello"}], "chat_template_kwargs": {"n": [NUMBER]}}',
        '{"messages": [{"role": "user", "content": "hello"}], "documents": [{"n": NUMBER}]}',
        '{"messages": [{"role": "user", "content": "hello"}], "tool_choice": "none", "tools": [{"n": NUMBER}]}',
        '{"messages": [{"role": "user", "content": "hello"}], "response_format": NUMBER}',
        '{"messages": [{"role": "user", "content": "hello"}], "unknown": NUMBER}',
    ],
)
def test_a_number_that_can_not_be_printed_is_refused_wherever_it_lies(served, chat):
    """5,000 digits are more than Python prints; 4,300 are not, and as text any are fine."""
    status, error = refused(served, "/v1/chat/completions", chat.replace("NUMBER", "9" * 5000).encode())
    assert (status, error["type"]) == (400, "BadRequestError")
    assert "number out of range" in error["message"]
    status, answer, _ = served.post("/v1/chat/completions", chat.replace("NUMBER", "9" * 4300).encode())
    assert status in {200, 400}, answer
    assert served.post("/v1/chat/completions", CHAT | {"chat_template_kwargs": {"n": "9" * 5000}})[0] == 200


def test_unknown_paths_and_methods_have_the_same_shape(served):
    """404 and 405 too."""
    status, error = refused(served, "/v1/nothing", {})
    assert (status, error["code"], error["type"]) == (404, 404, "NotFoundError")
    status, answer, headers = served.request("DELETE", "/v1/completions")
    assert (status, answer["error"]["type"], headers["allow"]) == (405, "MethodNotAllowedError", "POST")


def test_a_body_beyond_the_limit_is_refused_whatever_length_it_claims(served):
    """A declared length is checked before the body is read, otherwise it is counted while it is read, also if
    compressed.
    """
    host, port = served.url.removeprefix("http://").split(":")
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent, chunk = 0, b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        try:
            while sent < 64:
                connection.sendall(chunk)
                sent += 1
        except OSError:
            pass  # it has closed: that is the point
        assert sent <= 64
    bomb = gzip.compress(b" " * (80 * 2**20))
    headers = {"Content-Encoding": "gzip"}
    status, error = refused(served, "/v1/completions", bomb, headers=headers)
    assert (status, error["type"]) == (413, "RequestTooLargeError")
    assert served.post("/v1/completions", COMPLETION)[0] == 200


def test_an_answer_to_a_refused_request_carries_the_clients_request_id(served):
    """Both sides' logs can then be matched; an id that is not printable is not sent back."""
    _, _, headers = served.post("/v1/completions", {}, headers={"X-Request-Id": "abc-1"})
    assert headers["x-request-id"] == "abc-1"
    _, answer, headers = served.post("/v1/completions", COMPLETION, headers={"X-Request-Id": "abc-2"})
    assert answer["id"] == "cmpl-abc-2"
    assert json.dumps(answer)


def test_a_request_that_fails_in_a_step_fails_alone_streamed_or_not(served):
    """Status 500 with the engine's reason, also of a stream that has not begun."""
    for stream in (False, True):
        status, error = refused(served, "/v1/completions", {**COMPLETION, "prompt": "!no", "stream": stream})
        assert (status, error["type"]) == (500, "InternalServerError")


@pytest.mark.slow
def test_a_stream_that_fails_after_it_has_begun_ends_with_the_error(fake_model):
    """Its status has been sent, so it is an event."""
    with Served(fake_model, "--served-model-name", "fake", step_seconds=2) as server:
        status, text, _ = server.post("/v1/completions", {**COMPLETION, "prompt": "!no", "stream": True})
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert status == 200
    assert json.loads(events[-2])["error"]["code"] == 500
    assert events[-1] == "[DONE]"
