"""The tutorial's load test: twenty completions at once, each of a hundred tokens, and how long they take."""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp

MODEL = "microsoft/phi-2"
REQUESTS = 20


async def complete(session: aiohttp.ClientSession, url: str, prompt: str) -> float:
    """Seconds that one completion took."""
    start = time.time()
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 100}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        await response.json()
    return time.time() - start


async def main(url: str) -> None:
    """All at once."""
    async with aiohttp.ClientSession() as session:
        start = time.time()
        prompts = [f"Explain Kubernetes concept #{number}" for number in range(REQUESTS)]
        latencies = sorted(await asyncio.gather(*(complete(session, url, prompt) for prompt in prompts)))
        total = time.time() - start
    print(f"Total requests: {REQUESTS}")
    print(f"Throughput: {REQUESTS / total:.2f} req/s")
    print(f"Avg latency: {sum(latencies) / REQUESTS:.2f}s")
    print(f"P99 latency: {latencies[int(REQUESTS * 0.99)]:.2f}s")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
