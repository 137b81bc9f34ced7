"""Measures what one request, client or signal costs all others: streams run while each of them is tried.

For each case: its answer, the longest gap between two tokens of a neighbour's stream, how late the API server's event
loop ran at most (as a bucket of its histogram), and the memory peak of each process. The server gets the arguments of
the pod that the operator plans for SmolLM2 on a CPU. Goals, on two quiet cores: no gap above 0.6 s, no more memory than
that pod's limit, and nothing 5xx but 503 with Retry-After.

    python -m bench.stall                       # every case, 16 streams
    python -m bench.stall --cases ids deep      # those whose name holds one of the words
    python -m bench.stall --octavo OTHER/octavo # another version, for a comparison
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from bench.planned_pod import memory_of, planned
from bench.stall_clients import clients
from bench.stall_requests import large_requests
from bench.stall_server import COMPLETIONS, LIMIT_SECONDS, Attempt, Server, loop_delays, serving, slowest

GOAL_GAP = 0.6
SETTLE_SECONDS = 1.0


class Streams:
    """Neighbours: each asks again as soon as it has ended."""

    def __init__(self, server: Server, count: int) -> None:
        self._server, self._count = server, count
        self._longest = 0.0
        self._last: dict[int, float] = {}  # time of each stream's last token

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=LIMIT_SECONDS * 2)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{self._server.port}", connector=connector, timeout=timeout
        ) as session:
            tasks = [asyncio.create_task(self._one(session, seed)) for seed in range(self._count)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, session: aiohttp.ClientSession, seed: int) -> None:
        body = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True, "seed": seed}
        while True:
            async with session.post(COMPLETIONS, json=body) as response:
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        now = time.monotonic()
                        self._longest = max(self._longest, now - self._last.get(seed, now))
                        self._last[seed] = now
            del self._last[seed]  # the time to another's first token is no gap
            await asyncio.sleep(0.1)

    def forget(self) -> None:
        """Begin to look for gaps now."""
        self._longest = 0.0
        self._last = dict.fromkeys(self._last, time.monotonic())

    @property
    def longest(self) -> float:
        """The longest gap, those that still last included."""
        now = time.monotonic()
        return max(self._longest, *(now - last for last in self._last.values()), 0.0)


def missed(goal: bool) -> str:
    return " !" if goal else ""


async def measure(server: Server, chosen: dict[str, Attempt], streams: int, limit: int) -> int:
    """Try each case beside `streams`; how many missed a goal. `limit` is of all processes together, in MiB."""
    bad = 0
    print(f"| {'case':<38} | answer | seconds | longest gap | loop | peaks, MiB | of {limit} |\n|-|-|-|-|-|-|-|")
    for name, attempt in chosen.items():
        server.look_for_processes()
        server.reset_peaks()
        neighbours = Streams(server, streams)
        async with neighbours.running():
            await asyncio.sleep(SETTLE_SECONDS)
            neighbours.forget()
            before, began = await asyncio.to_thread(loop_delays, server), time.monotonic()
            answer, allowed = await asyncio.to_thread(attempt, server)
            seconds = time.monotonic() - began
            await asyncio.sleep(SETTLE_SECONDS)
            gap = neighbours.longest
            delay = slowest(before, await asyncio.to_thread(loop_delays, server))
        peaks = server.peaks()
        used = sum(peaks.values())
        bad += not (allowed and gap <= GOAL_GAP and used <= limit)
        by_process = ", ".join(f"{kind} {peak}" for kind, peak in peaks.items())
        print(
            f"| {name:<38} | {answer}{missed(not allowed)} | {seconds:.1f} | {gap:.2f} s{missed(gap > GOAL_GAP)} | {delay} "
            f"| {by_process} | {used}{missed(used > limit)} |",
            flush=True,
        )
        if server.process.poll() is not None:
            raise SystemExit(f"the server has ended with {server.process.returncode}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description="Try what could stall the server, while streams run.")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", metavar="WORD", default=[""])
    parser.add_argument("--octavo", default=str(Path(sys.executable).with_name("octavo")), help="another version's")
    options = parser.parse_args()
    chosen = {
        name: attempt
        for name, attempt in (large_requests(random.Random(options.seed)) | clients()).items()
        if any(word in name for word in options.cases)
    }
    made = planned({})
    with serving([options.octavo, "serve", *made.engine.line("127.0.0.1", 0)]) as server:
        bad = asyncio.run(measure(server, chosen, options.streams, memory_of(made) >> 20))
    print(f"{len(chosen) - bad} of {len(chosen)} cases within the goals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
