"""Clients and proxies as people have them: HTTP/1.0, curl, requests, and nginx with nothing but `proxy_pass`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess

import pytest
import requests
from octavo_testing.served import Served, until
from raw_http import chunks_of, connect, exchange, parse, post

COMPLETION = {"prompt": "hello", "max_tokens": 8, "seed": 1}
STREAM = {**COMPLETION, "stream": True}


@pytest.fixture(scope="module")
def text(served):
    """The text that every client must get."""
    return served.post("/v1/completions", COMPLETION)[1]["choices"][0]["text"]


def streamed(body: str) -> str:
    """The text of a whole stream."""
    return "".join(choice["text"] for chunk in chunks_of(body) for choice in chunk["choices"])


@pytest.mark.parametrize("host", ["x", None])
@pytest.mark.parametrize("connection", ["Connection: close", "Connection: keep-alive", "X-None: 1"])
def test_http_1_0_is_served_streamed_or_not(served, text, host, connection):
    """A stream ends with its connection, without chunks; a Host header came with HTTP/1.1."""
    answer = exchange(served, post("/v1/completions", STREAM, connection, version="1.0", host=host))
    assert (answer.version, answer.status) == ("HTTP/1.0", 200)
    assert "transfer-encoding" not in answer.headers
    assert streamed(answer.body.decode()) == text
    with connect(served) as client:
        client.sendall(post("/v1/completions", COMPLETION, connection, version="1.0", host=host))
        data = b""
        while b'"object":"text_completion"' not in data:
            data += client.recv(65536)
    answer = parse(data)
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["text"] == text
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": True}
    answer = exchange(served, post("/v1/chat/completions", chat, version="1.0", host=host))
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_an_error_reaches_a_client_of_http_1_0(served):
    """Before the stream begins it is a status."""
    for body, status in (({**STREAM, "temperature": -1}, 400), ({**STREAM, "prompt": "!no"}, 500)):
        answer = exchange(served, post("/v1/completions", body, version="1.0"))
        assert (answer.status, answer.error["code"]) == (status, status)


def test_requests_reads_streams_line_by_line(served, text):
    """Over one connection, with the line splitting of `requests`."""
    with requests.Session() as session:
        for _ in range(2):
            with session.post(f"{served.url}/v1/completions", json=STREAM, stream=True, timeout=30) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                assert streamed("\n".join(response.iter_lines(decode_unicode=True))) == text
        answer = session.post(f"{served.url}/v1/completions", json=COMPLETION, timeout=30).json()
        assert answer["choices"][0]["text"] == text


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("flags", [[], ["--http1.0"], ["--http2"], ["-H", "Expect: 100-continue"]])
def test_curl_is_served(served, text, flags):
    """With `-d` alone, whose content type is a form's."""

    def curl(body):
        command = ["curl", "-sS", "-N", *flags, f"{served.url}/v1/completions", "-d", json.dumps(body)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    assert json.loads(curl(COMPLETION))["choices"][0]["text"] == text
    assert streamed(curl(STREAM)) == text


@pytest.fixture
def nginx(fake_model, tmp_path):
    """A slow server behind nginx as its documentation's first example has it."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Served(fake_model, step_seconds=0.05) as server:
        places = " ".join(
            f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {server.url}; }} }} }}\n"
        )
        command = [program, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            until(lambda: _accepts(port), 10, "nginx does not listen")
            yield server, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=10)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_nginx_passes_a_stream_on_as_it_comes(nginx):
    """nginx speaks HTTP/1.0 to the server, and would collect what comes if the answer did not forbid it."""
    server, url = nginx
    body = {"prompt": "hello", "max_tokens": 100, "ignore_eos": True, "stream": True}
    with requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=60) as response:
        assert response.status_code == 200
        lines = response.iter_lines(decode_unicode=True)
        assert next(lines).startswith("data: ")
        assert server.get("/load")[1]["server_load"] == 1, "the first event came while the answer was being made"
        assert [line for line in lines if line][-1] == "data: [DONE]"
    answer = requests.post(f"{url}/v1/completions", json={**body, "stream": False, "max_tokens": 4}, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 4
