"""The reader of a stream, and the proxies in between, see each event in time."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from octavo_testing.served import Served
from raw_http import connect, post

from octavo_engine.config import ApiConfig
from octavo_engine.errors import EngineDeadError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.answer import event_stream
from octavo_engine.server.answer import writer as answer_writer
from octavo_engine.server.answer.event_stream import EventStream
from octavo_engine.server.answer.responses import Delta
from octavo_engine.server.generation import Choice, GenerationError
from octavo_engine.server.intake.prepare import Prompt
from octavo_engine.server.intake.protocol import CompletionBody
from octavo_engine.server.routes.completions import CompletionWriter

STREAM = {"prompt": "hello", "max_tokens": 2, "stream": True}
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.slow
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

    async def write_eof(self):
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


class Generation:
    """Ends with an error, after a silence if the client is to see headers first."""

    def __init__(self, error, silences):
        prompt = Prompt([1], (SamplingParams(max_tokens=1),))
        self.choices = {"a": Choice(0, prompt, text_stream=None)}
        self._ends = [error, *[TimeoutError()] * silences]

    async def take(self, _seconds):
        raise self._ends.pop()


@pytest.mark.parametrize("error", [GenerationError("no"), EngineDeadError("shutting down")])
async def test_a_failure_before_the_stream_has_begun_has_a_status_of_its_own(events, monkeypatch, error):
    """Clients and load balancers try again after a 503; an event within a 200 they do not see."""
    monkeypatch.setattr(answer_writer, "EventStream", lambda _request, **_: events)
    body = CompletionBody(prompt="a", stream=True)
    context = SimpleNamespace(tokenizer=None, pools=None, config=SimpleNamespace(api=ApiConfig()), fingerprint="f")
    writer = CompletionWriter(context, body, Generation(error, 0), "id", "model")
    with pytest.raises(type(error)):
        await writer.stream(None)
    assert not events.begun
    writer = CompletionWriter(context, body, Generation(error, 2), "id", "model")
    await writer.stream(None)
    comment, event, done, rest = events._response.written.split(b"\n\n")
    assert comment.startswith(b":")
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == str(error)
    assert (done, rest) == (b"data: [DONE]", b"")


async def test_no_line_splitter_cuts_an_event(events):
    """Python's `str.splitlines`, which httpx follows, cuts at more than JSON escapes."""
    events.event(Delta(f"a{BREAKS}b\u2027\u2030é"))
    await events.flush()
    text = events._response.written.decode()
    lines = text.splitlines()
    assert len(lines) == 2, "the event, and the empty line after it"
    assert text.endswith("\n\n")
    assert json.loads(lines[0].removeprefix("data: "))["content"] == f"a{BREAKS}b\u2027\u2030é"
