"""A small server of the OpenAI API, in a thread, that answers by a script."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field

import pytest
from aiohttp import web


@dataclass
class ScriptedServer:
    """A server whose behaviour is set before a request, and which keeps what it was asked."""

    url: str = ""
    takes_token_ids: bool = True
    sends_usage: bool = True
    chunk_tokens: int = 1  # tokens that one chunk carries
    delay: float = 0.0  # seconds before each chunk
    api_key: str | None = None
    fail_every: int = 0  # every so many requests are answered 500
    break_after: int | None = None  # chunks after which the connection is cut
    error_after: int | None = None  # chunks after which an error event comes
    words: tuple[str, ...] | None = None  # the answer's pieces
    bodies: list[dict] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    released: threading.Event = field(default_factory=threading.Event)  # a client went away within an answer

    async def models(self, request: web.Request) -> web.Response:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"object": "list", "data": [{"id": "scripted"}, {"id": "other"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.fail_every and len(self.bodies) % self.fail_every == 0:
            return web.json_response({"error": {"message": "failing on purpose", "code": 500}}, status=500)
        if isinstance(body.get("prompt"), list) and not self.takes_token_ids:
            error = {"message": "prompt must be a string", "param": "prompt"}
            return web.json_response({"error": error}, status=400)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            return await self._stream(request, body)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, body: dict) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chat = "messages" in body
        tokens = body.get("max_tokens") or 8
        words = self.words or tuple(f"w{i} " for i in range(0, tokens, self.chunk_tokens))
        try:
            if chat:
                await self._send(response, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            for i, word in enumerate(words):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if i == self.break_after:
                    request.transport.close()
                    return response
                if i == self.error_after:
                    await self._send(response, {"error": {"message": "breaking on purpose", "code": 500}})
                    return response
                part = {"delta": {"content": word}} if chat else {"text": word}
                await self._send(response, {"choices": [{"index": 0, **part, "finish_reason": None}], "usage": None})
        except (ConnectionResetError, asyncio.CancelledError):
            self.released.set()
            raise
        end = {"delta": {}} if chat else {"text": ""}
        await self._send(response, {"choices": [{"index": 0, **end, "finish_reason": "length"}]})
        if self.sends_usage:
            prompt = body.get("prompt") or body["messages"]
            count = len(prompt) if isinstance(prompt, list) else len(prompt.split())
            usage = {"prompt_tokens": count, "completion_tokens": tokens}
            await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, chunk: dict) -> None:
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


@pytest.fixture
def server():
    """Serves on a free port of loopback until the test ends."""
    scripted = ScriptedServer()
    started = threading.Event()
    loop = asyncio.new_event_loop()
    runners = []

    async def start() -> None:
        app = web.Application()
        app.router.add_get("/v1/models", scripted.models)
        app.router.add_post("/v1/completions", scripted.complete)
        app.router.add_post("/v1/chat/completions", scripted.complete)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runners[0].cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(10)
    yield scripted
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
