"""Any bytes at the port are answered in the OpenAI shape, and no part of them gets into the log or the answer."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from aiohttp import web
from octavo_testing.served import Served
from raw_http import connect, exchange, post, read_answer

from octavo_engine.server.http_server import listen

COMPLETION = {"prompt": "hello", "max_tokens": 4}
CLOSE = b"Host: x\r\nConnection: close\r\n"
SECRET = b"sk-first.SECRETPART"


def chunked(*pieces: bytes) -> list[bytes]:
    return [b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces]


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (400, [b"hello " + SECRET + b"\r\n\r\n"]),
        (400, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]),
        (400, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
        (400, [b"GET / HTTP/3.0\r\nHost: x\r\n\r\n"]),
        (400, [b"GET /health HTTP/1.1\r\n\r\n"]),
        (400, [b"GET /health HTTP/1.1\nHost: x\n\n"]),
        (400, [b"BREW /health HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (400, [b"GET /mod els HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (400, [b"GET /\xff HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (400, [b"GET /health HTTP/1.1\r\nAuthorization: Bearer " + SECRET + b"\x01\r\n\r\n"]),
        (400, [b"GET /health HTTP/1.1\r\n" + SECRET + b" : x\r\n\r\n"]),
        (400, [b"POST /v1/completions HTTP/1.1\r\nContent-Length: -4\r\n\r\nhell"]),
        (400, [b"POST /v1/completions HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhello"]),
        (400, [b"POST /v1/completions HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]),
        (400, [b"".join(chunked(b"ZZ\r\nhello\r\n"))]),
        (400, chunked(b"5\r\nhello\r\n", b"ZZ\r\nhello\r\n")),
        (400, chunked(b"5\r\nhello\r\n", b"5\r\nhelloXX0\r\n\r\n")),
        (404, [b"GET /nothing HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (404, [b"GET /%ff HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (404, [b"GET /v1/../health HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (404, [b"OPTIONS * HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (404, [b"CONNECT a:80 HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (405, [b"OPTIONS /v1/completions HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (414, [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n"]),
        (417, [post("/v1/completions", COMPLETION, "Expect: magic")]),
        (417, [post("/nothing", COMPLETION, "Expect: magic")]),
        (431, [b"GET /health HTTP/1.1\r\nAuthorization: Bearer " + SECRET + b"x" * 70_000 + b"\r\n\r\n"]),
        (431, [b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n"]),
    ],
)
def test_what_is_not_http_is_answered_in_the_openai_shape(served, status, parts):
    """The status says what is wrong; nothing that was sent is quoted; the server goes on."""
    num_lines = len(served.lines)  # other tests make the engine fail, which is logged
    answer = exchange(served, *parts)
    assert (answer.status, answer.error["code"]) == (status, status)
    assert b"SECRET" not in answer.body
    logged = "\n".join(served.lines[num_lines:])
    assert "SECRET" not in logged
    assert "Traceback" not in logged
    assert served.get("/health")[0] == 200


def test_a_long_bearer_is_read(fake_model):
    """Tokens of identity providers take 10 KB and more; up to 64 KiB are read, and nothing of a key is logged."""
    key = SECRET.decode() + "x" * 60_000
    with Served(fake_model, "--enable-log-requests", env={"OCTAVO_API_KEY": key}) as server:
        assert server.get("/v1/models", headers={"Authorization": f"Bearer {key}"})[0] == 200
        status, answer, _ = server.get("/v1/models", headers={"Authorization": f"Bearer {key}y"})
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        for header in (f"Authorization: Bearer {key}\x01", f"Authorization: Bearer {key}{'x' * 9000}", f"{key}: x"):
            answer = exchange(server, post("/v1/completions", COMPLETION, header))
            assert answer.status in {400, 401, 431}
            assert b"SECRET" not in answer.body
        path = f"/v1/models?key={key[:9000]}"
        assert server.get(path, headers={"Authorization": f"Bearer {key}"})[0] == 200
        assert "SECRET" not in server.output


async def test_no_log_level_shows_what_was_sent(caplog):
    """What can't be parsed often holds a key, and who reads logs need not know it."""
    caplog.set_level(logging.DEBUG)
    runner = web.AppRunner(web.Application())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        listening = await listen(runner, listener)
        for sent in (
            b"GET / HTTP/1.1\r\nAuthorization: Bearer " + SECRET + b"x" * 70_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nAuthorization: Bearer " + SECRET + b"\x01\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + SECRET + b" : x\r\n\r\n",
            SECRET + b" / HTTP/1.1\r\n\r\n",
            b"GET /" + SECRET + b" " + SECRET + b"\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(sent)
            data = await reader.read()
            assert b'{"error":{"message":' in data
            assert b"SECRET" not in data
            writer.close()
        listening.close()
        await runner.cleanup()
    assert "SECRET" not in caplog.text
    assert len([record for record in caplog.records if "refused a request" in record.message]) == 5


def test_a_body_that_breaks_off_ends_with_its_connection(served):
    """No answer can reach the client; nothing of it is left behind."""
    num_lines = len(served.lines)
    whole = post("/v1/completions", COMPLETION)
    with connect(served) as connection:
        connection.sendall(whole[:-5])
    with connect(served) as connection:
        connection.sendall(chunked(b"5\r\nhel")[0])
    served.wait_for_metric("vllm:num_requests_running", 0)
    assert served.get("/load")[1]["server_load"] == 0
    assert "Traceback" not in "\n".join(served.lines[num_lines:])


def test_a_client_that_asks_before_it_sends_is_answered(served):
    """curl does for bodies of more than 1 MB: `Expect: 100-continue`."""
    whole = post("/v1/completions", COMPLETION, "Expect: 100-continue")
    head, _, body = whole.partition(b"\r\n\r\n")
    with connect(served) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_answer(connection).status == 200


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_an_upgrade_that_is_not_taken_up_is_answered_as_http_1(served, upgrade):
    """Java's client offers `h2c` with every request, body included."""
    headers = (f"Upgrade: {upgrade}", "Connection: Upgrade, HTTP2-Settings, close", "HTTP2-Settings: AAMAAABkAAQ")
    request = post("/v1/completions", COMPLETION, *headers).replace(b"Connection: close\r\n", b"")
    assert exchange(served, request).status == 200


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/nothing", 404), ("/v1/completions", 405)])
def test_head_is_answered_without_a_body(served, path, status):
    """With the headers that GET would have."""
    answer = exchange(served, f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert (answer.status, answer.body) == (status, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/"),
        ("GET", "//v1/models"),
        ("GET", "/v1//models"),
        ("GET", "/v1//models//other/name/"),
        ("GET", "/health/?x=//"),
        ("POST", "/v1//completions"),
        ("POST", "//v1/completions/"),
        ("POST", "/tokenize/"),
    ],
)
def test_a_base_url_that_ends_in_a_slash_works(served, method, path):
    """Clients join it with a path, and get two slashes; no redirect, which many do not follow with a body."""
    body = COMPLETION if method == "POST" else None
    assert served.request(method, path, body)[0] == 200


@pytest.mark.slow
def test_a_stray_slash_opens_nothing(fake_model):
    """The path as it was sent decides whether it needs a key."""
    with Served(fake_model, "--api-key", "sesame") as server:
        for path in ("/v1/models/", "//v1/models", "//health", "/health/", "/health//../v1/models"):
            assert server.get(path)[0] == 401, path
        assert server.get("/v1/models/", headers={"Authorization": "Bearer sesame"})[0] == 200


def test_every_answer_names_its_request(served):
    """With the client's X-Request-Id, or with one of the server's own, which is also the answer's id."""
    _, answer, headers = served.post("/v1/completions", COMPLETION)
    assert answer["id"] == f"cmpl-{headers['x-request-id']}"
    _, answer, headers = served.post("/v1/completions", {**COMPLETION, "request_id": "mine"})
    assert (answer["id"], headers["x-request-id"]) == ("cmpl-mine", "mine")
    _, answer, headers = served.post(
        "/v1/completions", {**COMPLETION, "request_id": "body"}, headers={"X-Request-Id": "header"}
    )
    assert (answer["id"], headers["x-request-id"]) == ("cmpl-header", "header")
    _, answer, headers = served.post("/v1/completions", {**COMPLETION, "request_id": "línea\n"})
    assert answer["id"] == "cmpl-línea\n"
    assert headers["x-request-id"].isalnum()
    seen = {served.get(path)[2]["x-request-id"] for path in ("/health", "/nothing", "/v1/models", "/v1/models")}
    assert len(seen) == 4
    for unfit in ("x" * 300, "é"):
        _, _, headers = served.get("/health", headers={"X-Request-Id": unfit})
        assert headers["x-request-id"] != unfit
    _, text, headers = served.post("/v1/completions", {**COMPLETION, "stream": True})
    assert f'"id":"cmpl-{headers["x-request-id"]}"' in text


@pytest.mark.parametrize("header", [b"Content-Length: 2000000", b"Transfer-Encoding: chunked"])
def test_large_bodies_arrive_whole_one_after_the_other(served, header):
    """However much of them comes at once."""
    body = b"[" + b" " * 1_999_998 + b"]"
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if header.startswith(b"T") else body
    for _ in range(4):
        with connect(served) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\n" + header + b"\r\n" + CLOSE + b"\r\n" + sent)
            assert b"must be a JSON object" in connection.recv(1000)
