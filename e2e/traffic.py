"""Many clients at once, and an account of every request: what is not answered whole and at the first try has failed.

A program of its own, so that it runs in a pod beside the service as well as in a test: `python traffic.py URL MODEL`.
Half of the clients keep their connection alive, half open one for each request; half read a stream, half a whole
answer. Nothing is ever tried again. It prints JSON, a line a second and a line a failure, until it is stopped
(SIGTERM, or `--seconds`); then it lets its requests finish, and the last line is the sum.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

TIMEOUT_S = 120.0  # an answer that takes longer has failed
HEADERS = {"Content-Type": "application/json"}


class BrokenAnswerError(Exception):
    """An answer that is not whole, or not as requested."""


@dataclass(frozen=True, slots=True)
class Client:
    """The behaviour of one client."""

    number: int
    kept_alive: bool
    streams: bool

    @property
    def kind(self) -> str:
        return f"{'kept-alive' if self.kept_alive else 'new'} {'stream' if self.streams else 'whole'}"


@dataclass
class Account:
    """The outcome of all requests. Every one that was begun is in `answered` or in `failures`, once it has ended."""

    begun: int = 0
    in_flight: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    connections: dict[str, int] = field(default_factory=dict)
    longest_s: float = 0.0
    reported: int = 0

    @property
    def num_answered(self) -> int:
        return sum(self.answered.values())

    def sum(self) -> dict[str, Any]:
        return {
            "event": "sum",
            "at": time.time(),
            "requests": self.begun,
            "answered": self.answered,
            "failed": len(self.failures),
            "connections": self.connections,
            "longest_s": round(self.longest_s, 3),
        }


@dataclass
class Traffic:
    """`clients` that ask one after the other. `pause`: seconds between an answer and the next request of a client."""

    url: str
    model: str
    clients: int = 16
    max_tokens: int = 8
    pause: float = 0.0
    key: str | None = None
    report: Any = None  # called with each line's values
    account: Account = field(default_factory=Account)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _prompts: Iterator[int] = field(default_factory=itertools.count)

    def stop(self) -> None:
        self._stop.set()

    async def run(self, seconds: float | None = None) -> Account:
        """Send requests until `stop`, or for so long; return once every request has ended."""
        async with asyncio.TaskGroup() as group:
            reports = group.create_task(self._report_each_second())
            clients = [group.create_task(self._ask(client)) for client in _clients(self.clients)]
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)
            self._stop.set()
            await asyncio.gather(*clients)
            reports.cancel()
        assert self.account.begun == self.account.num_answered + len(self.account.failures)
        self._say(self.account.sum())
        return self.account

    async def _ask(self, client: Client) -> None:
        """One request after the other, over one connection as long as the server keeps it, or each over its own."""
        account = self.account

        async def connected(_session: Any, _context: Any, _params: Any) -> None:
            account.connections[client.kind] = account.connections.get(client.kind, 0) + 1

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        connector = aiohttp.TCPConnector(limit=1, force_close=not client.kept_alive)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = {**HEADERS, **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, trace_configs=[trace]
        ) as session:
            while not self._stop.is_set():
                began = time.time()
                account.begun += 1
                account.in_flight += 1
                try:
                    await (self._stream if client.streams else self._whole)(session)
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError, BrokenAnswerError) as error:
                    self._failed(client, began, error)
                    await asyncio.sleep(0.1)  # a server that is away is not asked a thousand times a second
                else:
                    account.answered[client.kind] = account.answered.get(client.kind, 0) + 1
                finally:
                    account.in_flight -= 1
                    account.longest_s = max(account.longest_s, time.time() - began)
                if self.pause:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), self.pause)

    def _failed(self, client: Client, began: float, error: Exception) -> None:
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        failure = {"event": "failure", "at": time.time(), "began": began, "client": client.kind, "cause": cause}
        self.account.failures.append(failure)
        self._say(failure)

    def _body(self, *, stream: bool) -> bytes:
        prompt = f"Request {next(self._prompts)}: the next word is"
        body = {"model": self.model, "prompt": prompt, "max_tokens": self.max_tokens, "ignore_eos": True}
        return json.dumps({**body, "temperature": 0, "stream": stream}).encode()

    async def _whole(self, session: aiohttp.ClientSession) -> None:
        async with session.post(f"{self.url}/v1/completions", data=self._body(stream=False)) as response:
            text = await response.text()
            if response.status != 200:
                raise BrokenAnswerError(f"status {response.status}: {text[:300]}")
        answer = json.loads(text)
        got, reason = answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]
        if got != self.max_tokens or reason != "length":
            raise BrokenAnswerError(f"{got} of {self.max_tokens} tokens, finish_reason {reason}")

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        reason = done = None
        async with session.post(f"{self.url}/v1/completions", data=self._body(stream=True)) as response:
            if response.status != 200:
                raise BrokenAnswerError(f"status {response.status}: {(await response.text())[:300]}")
            async for line in response.content:
                data = line.strip().removeprefix(b"data: ")
                if data == b"[DONE]":
                    done = True
                elif data and not data.startswith(b":"):  # a comment keeps a stream alive while it waits for its turn
                    event = json.loads(data)
                    if "error" in event:
                        raise BrokenAnswerError(f"the stream ends with an error: {event['error']}")
                    reason = event["choices"][0]["finish_reason"] or reason
        if not done or reason != "length":
            raise BrokenAnswerError(f"the stream was cut short: [DONE] {bool(done)}, finish_reason {reason}")

    async def _report_each_second(self) -> None:
        account = self.account
        while True:
            await asyncio.sleep(1)
            answered = account.num_answered
            self._say(
                {
                    "event": "second",
                    "at": time.time(),
                    "answered": answered - account.reported,
                    "in_flight": account.in_flight,
                    "failed": len(account.failures),
                }
            )
            account.reported = answered

    def _say(self, values: dict[str, Any]) -> None:
        if self.report is not None:
            self.report(values)


def _clients(count: int) -> list[Client]:
    """Each of the four kinds in turn."""
    return [Client(number, kept_alive=number % 2 == 0, streams=number // 2 % 2 == 0) for number in range(count)]


def _print(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


async def _main(options: argparse.Namespace) -> int:
    traffic = Traffic(
        options.url, options.model, options.clients, options.max_tokens, options.pause, options.key, report=_print
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, traffic.stop)
    account = await traffic.run(options.seconds)
    return 1 if account.failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="without /v1")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two requests of a client")
    parser.add_argument("--seconds", type=float, default=None, help="default: until stopped")
    parser.add_argument("--key", default=None, help="an API key")
    sys.exit(asyncio.run(_main(parser.parse_args())))
