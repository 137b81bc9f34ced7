"""Many clients at once, slow ones, and ones that go away: blocks come back within a step, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from aiohttp import web
from octavo_testing.served import Served, until
from openai import AsyncOpenAI

from octavo_engine.server.answer import delivery
from octavo_engine.server.answer.event_stream import EventStream
from octavo_engine.server.answer.responses import Completion, CompletionChoice

MESSAGES = [{"role": "user", "content": "tell me something long"}]


@pytest.fixture(scope="module")
def paced(fake_model):
    """A server whose steps take a little time, so that requests overlap."""
    with Served(fake_model, step_seconds=0.02, num_blocks=5000) as server:
        yield server


def idle(server):
    server.wait_for_metric("vllm:num_requests_running", 0)
    server.wait_for_metric("vllm:num_requests_waiting", 0)
    server.wait_for_metric("vllm:kv_cache_usage_perc", 0)


@pytest.mark.slow
async def test_64_streamed_chats_finish_and_half_of_them_cut_off_leave_no_block_in_use(paced):
    """The cut ones end in the engine at once: they do not run on to their last token."""
    cut = {i for i in range(64) if i % 2}
    finished = paced.metric("vllm:request_success_total", finished_reason="length")
    aborted = paced.metric("vllm:request_success_total", finished_reason="abort")

    async with AsyncOpenAI(base_url=f"{paced.url}/v1", api_key="x", max_retries=0) as client:

        async def one(i: int) -> int:
            stream = await client.chat.completions.create(
                # The cut ones could go on for longer: a busy machine must not finish them before their client goes.
                model=paced_name,
                messages=MESSAGES,
                max_tokens=220 if i in cut else 100,
                stream=True,
                seed=i,
            )
            count = 0
            async for chunk in stream:
                count += len(chunk.choices[0].delta.content or "")
                if i in cut and count >= 20:
                    await stream.close()
                    break
            return count

        paced_name = (await client.models.list()).data[0].id
        counts = await asyncio.gather(*(one(i) for i in range(64)))
    assert all(counts[i] == 100 for i in range(64) if i not in cut)
    assert all(20 <= counts[i] < 220 for i in cut)
    await asyncio.to_thread(idle, paced)
    assert paced.metric("vllm:request_success_total", finished_reason="length") - finished == 32
    assert paced.metric("vllm:request_success_total", finished_reason="abort") - aborted == 32


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request(paced, stream):
    """Streamed or not, with all its choices."""
    aborted = paced.metric("vllm:request_success_total", finished_reason="abort")
    host, port = paced.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "x", "max_tokens": 250, "n": 3, "stream": stream}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until(lambda: paced.metric("vllm:num_requests_running") == 3, 5)
    until(lambda: paced.metric("vllm:request_success_total", finished_reason="abort") == aborted + 3, 2)
    idle(paced)


async def test_a_reader_that_reads_nothing_stops_the_writer(monkeypatch):
    """What it does not take waits as tokens, not as text: the writer waits once the socket's buffers are full."""
    chunk = Completion("id", 0, "m", [CompletionChoice(0, "x" * 60_000)])
    written = 0
    ended = asyncio.Event()

    async def handler(request):
        nonlocal written
        events = EventStream(request)
        try:
            while True:
                events.event(chunk)
                await events.flush()
                written += 1
        finally:
            ended.set()

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(60_000)
    count = -1
    while count != written:
        count = written
        await asyncio.sleep(0.2)
    assert count * 60_000 < 16 * 2**20, "only what the sockets' buffers hold was written"
    monkeypatch.setattr(delivery, "STALL_SECONDS", 0.2)
    await reader.readexactly(20 * 2**20)  # it goes on where it was
    await asyncio.wait_for(ended.wait(), 10)  # and one that has stopped for too long is cut off
    writer.close()
    await runner.cleanup()


@pytest.mark.slow
def test_the_queue_is_bounded_and_says_when_to_come_back(fake_model):
    """429 with Retry-After in the OpenAI shape; what is running and waiting is not disturbed."""
    arguments = ("--max-num-seqs", "2", "--max-num-queued-reqs", "3")
    with Served(fake_model, *arguments, step_seconds=0.02) as server:

        async def one() -> tuple[int, dict, dict]:
            return await asyncio.to_thread(server.post, "/v1/completions", {"prompt": "x", "max_tokens": 20})

        async def all_at_once():
            return await asyncio.gather(*(one() for _ in range(12)))

        answers = asyncio.run(all_at_once())
        statuses = [status for status, _, _ in answers]
        assert statuses.count(200) == 5
        assert statuses.count(429) == 7
        _, answer, headers = next(a for a in answers if a[0] == 429)
        assert headers["retry-after"] == "1"
        assert (answer["error"]["code"], answer["error"]["type"]) == ("queue_full", "RateLimitError")
        assert server.metric("vllm:admission_rejections_total", reason="max_num_queued_reqs") == 7
        status, answer, _ = server.post("/v1/completions", {"prompt": "x", "n": 6})
        assert (status, answer["error"]["param"]) == (400, "n"), "it could never be let in"


@pytest.mark.slow
def test_the_queue_is_bounded_in_tokens_too(fake_model):
    """One request is always let in, however long; it has to be served some day."""
    arguments = ("--max-num-seqs", "1", "--max-num-queued-tokens", "50")
    with Served(fake_model, *arguments, step_seconds=0.02) as server:
        body = {"prompt": "x" * 40, "max_tokens": 20}

        async def all_at_once():
            tasks = []
            for _ in range(4):
                tasks.append(asyncio.create_task(asyncio.to_thread(server.post, "/v1/completions", body)))
                await asyncio.sleep(0.1)
            return await asyncio.gather(*tasks)

        statuses = [status for status, _, _ in asyncio.run(all_at_once())]
        assert statuses == [200, 200, 429, 429]
        assert server.post("/v1/completions", {"prompt": "x" * 60, "max_tokens": 1})[0] == 200


@pytest.mark.slow
def test_a_long_prompt_being_tokenized_does_not_hold_up_a_stream(paced):
    """Long texts are tokenized in a thread."""
    started = time.monotonic()
    for _ in range(3):
        assert paced.post("/tokenize", {"prompt": "word " * 200_000})[1]["count"] == 1_000_000
        assert paced.get("/health")[0] == 200
    assert time.monotonic() - started < 30
