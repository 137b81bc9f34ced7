"""Sends a workload's requests and clocks each one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from octavo_engine.client.benchmark.workload import Prompt
from octavo_engine.client.openai_client import ApiError, OpenAIClient

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(slots=True)
class RequestOutcome:
    """One request, in seconds. Token counts are the server's own (`usage`) unless `counted_chunks`."""

    start: float
    end: float = 0.0
    first_token: float | None = None
    last_token: float | None = None
    gaps: list[float] = field(default_factory=list)  # between chunks that carried text
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    counted_chunks: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RequestForm:
    """The fields that all requests of a run share."""

    model: str
    endpoint: str  # a key of PATHS
    output_len: int
    temperature: float
    ignore_eos: bool

    def body(self, prompt: Prompt, max_tokens: int | None = None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.output_len if max_tokens is None else max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
        if self.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        return body


async def send(client: OpenAIClient, path: str, body: dict[str, Any]) -> RequestOutcome:
    """One streamed request; a failure is part of the outcome."""
    outcome = RequestOutcome(start=time.perf_counter())
    chunks = 0
    usage: dict[str, Any] | None = None
    try:
        async with aclosing(client.stream(path, body)) as stream:
            async for chunk in stream:
                usage = chunk.get("usage") or usage
                choices = chunk.get("choices")
                if choices and _has_text(choices[0]):
                    chunks += 1
                    now = time.perf_counter()
                    if outcome.last_token is None:
                        outcome.first_token = now
                    else:
                        outcome.gaps.append(now - outcome.last_token)
                    outcome.last_token = now
    except ApiError as error:
        outcome.error = str(error)
    outcome.end = time.perf_counter()
    outcome.counted_chunks = usage is None
    if usage is None:
        outcome.output_tokens = chunks
    else:
        outcome.output_tokens = usage.get("completion_tokens") or 0
        outcome.prompt_tokens = usage.get("prompt_tokens") or 0
        outcome.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    if outcome.error is None and outcome.first_token is None:
        outcome.error = "the answer has no text"
    return outcome


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return bool(delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content"))


async def run(
    client: OpenAIClient,
    form: RequestForm,
    prompts: Sequence[Prompt],
    arrivals: Sequence[float],
    concurrency: int,
    on_end: Callable[[RequestOutcome], None],
) -> list[RequestOutcome]:
    """All requests, at most `concurrency` at once; each waits for its arrival, and is clocked from its sending."""
    slots = asyncio.Semaphore(concurrency)
    start = time.perf_counter()
    path = PATHS[form.endpoint]

    async def one(prompt: Prompt, arrival: float) -> RequestOutcome:
        delay = start + arrival - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        async with slots:
            outcome = await send(client, path, form.body(prompt))
        on_end(outcome)
        return outcome

    return await asyncio.gather(*(one(*pair) for pair in zip(prompts, arrivals, strict=True)))
