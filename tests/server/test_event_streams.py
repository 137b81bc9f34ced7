"""What a stream's reader and the proxies in between see, and when."""

from __future__ import annotations

import json
import threading

import pytest
from raw_http import connect, post
from served import Served, until

from octavo_engine.server import event_stream
from octavo_engine.server.event_stream import EventStream

STREAM = {"prompt": "hello", "max_tokens": 2, "stream": True}
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_a_stream_begins_before_its_first_token(fake_model):
    """Clients and proxies wait for the status; the headers say that nothing in between should collect."""
    with Served(fake_model, step_seconds=3) as server, connect(server) as connection:
        connection.sendall(post("/v1/completions", STREAM))
        head = connection.recv(65536).decode()
        assert head.startswith("HTTP/1.1 200 ")
        assert "data:" not in head
        assert "\r\nX-Accel-Buffering: no\r\n" in head
        assert "\r\nCache-Control: no-cache\r\n" in head
        assert server.get("/load")[1]["server_load"] == 1


def test_a_stream_that_ends_before_its_first_token_has_a_status(fake_model):
    """A server that shuts down tells the client to come back, as it would without a stream."""
    with Served(fake_model, "--shutdown-timeout", "0", step_seconds=0.4) as server:
        body = {**STREAM, "max_tokens": 100, "ignore_eos": True}
        others = [threading.Thread(target=server.post, args=("/v1/completions", body)) for _ in range(2)]
        for other in others:
            other.start()
        until(lambda: server.get("/load")[1]["server_load"] == 2, 10)
        with connect(server) as connection:
            connection.sendall(post("/v1/completions", {**body, "prompt": "other"}))
            until(lambda: server.get("/load")[1]["server_load"] == 3, 10)
            server.signal()
            first = connection.recv(65536).decode()
        for other in others:
            other.join()
    assert first.startswith(("HTTP/1.1 503 ", "HTTP/1.1 200 "))  # 200 where its first token was quicker
    if " 503 " in first:
        assert "\r\nRetry-After: " in first


class Transport:
    """Takes everything."""

    def get_write_buffer_size(self):
        return 0


class Answer:
    """Keeps what is written in place of aiohttp's response."""

    def __init__(self, **_):
        self.prepared = False
        self.written = b""

    async def prepare(self, _request):
        self.prepared = True

    async def write(self, data):
        assert data, "an empty chunk would end the answer"
        self.written += data

    def force_close(self):
        pass


@pytest.fixture
def events(monkeypatch):
    """A stream whose client is a buffer."""

    class Request:
        version = (1, 1)
        transport = Transport()

    monkeypatch.setattr(event_stream.web, "StreamResponse", Answer)
    return EventStream(Request())


async def test_silence_is_first_the_headers_and_then_comments(events):
    """A comment is no event: clients pass over it."""
    assert events.patience == event_stream.BEGIN_SECONDS
    await events.keep_alive()
    assert (events.begun, events._response.written) == (True, b"")
    assert events.patience == event_stream.QUIET_SECONDS
    await events.keep_alive()
    await events.keep_alive()
    comments = events._response.written.split(b"\n\n")
    assert len(comments) == 3
    assert all(comment.startswith(b":") for comment in comments[:-1])
    assert comments[-1] == b""


async def test_no_line_splitter_cuts_an_event(events):
    """Python's `str.splitlines`, which httpx follows, cuts at more than JSON escapes."""
    from octavo_engine.server.responses import Delta

    events.event(Delta(f"a{BREAKS}b\u2027\u2030é"))
    await events.flush()
    text = events._response.written.decode()
    lines = text.splitlines()
    assert len(lines) == 2, "the event, and the empty line after it"
    assert text.endswith("\n\n")
    assert json.loads(lines[0].removeprefix("data: "))["content"] == f"a{BREAKS}b\u2027\u2030é"
