"""Chats that offer tools to a real model; counts the calls that parse and validate.

Prompts, tools and schemas are made from a seed. Each chat is sent whole and streamed, with one seed for both: required,
named and strict calls must be JSON that validates against the tool's schema, a stream joined together must be the whole
answer, and no delimiter of a call may stand in the content. What `max_tokens` cuts is counted apart, and must be equal in
both forms too. On AMX, where a text depends on the batch, set OCTAVO_NATIVE_ISA=avx512-bf16.

    python -m bench.tool_prompts --prompts 1000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jsonschema
from bench.served_model import served

MODEL = "package://qwen2.5-coder-0.5b"
MODES = ("required", "named", "strict", "auto")
BIASES = (20, 21, 22, 23)  # with which it begins calls, and ends
DELIMITERS = ("<tool_call>", "</tool_call>")
SHOWN = 20  # failures that are printed whole
VERBS = ("get", "find", "set", "count", "book", "cancel", "list", "update", "send", "check")
NOUNS = ("weather", "order", "flight", "invoice", "user", "ticket", "sensor", "meeting", "parcel", "route")
WORDS = (
    "city",
    "name",
    "day",
    "size",
    "limit",
    "unit",
    "price",
    "code",
    "tag",
    "note",
    "count",
    "owner",
    "state",
    "level",
)
VALUES = ("Paris", "Lima", "blue", "seven", "tomorrow", "urgent", "A-17", "north", "100", "Ada", "kg", "2031-05-04")
ASKS = (
    "Please {verb} the {noun} for {value}.",
    "I need to {verb} a {noun}: {value}, and {other}.",
    "{verb} {noun} {value}!",
    "What is the {noun} of {value}? The {word} is {other}.",
    'Hello. Could you {verb} the {noun} called "{value}" with {word} {other}?',
)  # fmt: skip
Json = dict[str, Any]


@dataclass
class Tally:
    """Counts by mode, and the failures."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def fail(self, mode: str, what: str, detail: str) -> None:
        self.counts[mode, what] += 1
        self.failures.append(f"{mode}: {what}: {detail}")


def schema(rng: random.Random, depth: int = 0) -> Json:
    """A schema of a parameter."""
    kinds = ["string", "integer", "number", "boolean", "enum", "date", "const"]
    kind = rng.choice([*kinds, "array", "object", "nullable", "pattern"] if depth < 2 else kinds)
    match kind:
        case "string":
            return {"type": "string", "maxLength": rng.choice([16, 40])}
        case "integer":
            least = rng.randrange(-5, 5)
            return {"type": "integer", "minimum": least, "maximum": least + rng.choice([3, 40, 10_000])}
        case "number":
            return {"type": "number", "minimum": 0, "maximum": rng.choice([1, 99.5])}
        case "enum":
            return {"enum": rng.sample(VALUES, 3)}
        case "date":
            return {"type": "string", "format": "date"}
        case "const":
            return {"const": rng.choice([True, 5, *VALUES])}
        case "pattern":
            return {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}
        case "array":
            return {"type": "array", "items": schema(rng, depth + 1), "minItems": rng.randrange(2), "maxItems": 3}
        case "object":
            return parameters(rng, depth + 1)
        case "nullable":
            return {"anyOf": [schema(rng, depth + 1), {"type": "null"}]}
    return {"type": kind}


def parameters(rng: random.Random, depth: int = 0) -> Json:
    """A schema of an object."""
    names = rng.sample(WORDS, rng.randrange(1, 4 if depth else 5))
    return {
        "type": "object",
        "properties": {name: schema(rng, depth) for name in names},
        "required": rng.sample(names, rng.randrange(len(names) + 1)),
        "additionalProperties": False,
    }


def tool(rng: random.Random, name: str) -> Json:
    function: Json = {"name": name, "description": name.replace("_", " ").capitalize() + "."}
    if rng.random() < 0.95:
        function["parameters"] = parameters(rng)
    return {"type": "function", "function": function}


def chats(
    seed: int, number: int, max_tokens: int, modes: Sequence[str], delimiters: Sequence[int]
) -> list[tuple[str, Json]]:
    """Mode and body of each chat; ten in a row share their tools, so that the prompt's prefix is computed once."""
    found = []
    for group in range((number + 9) // 10):
        rng = random.Random(seed * 1_000_003 + group)
        names = rng.sample([f"{verb}_{noun}" for verb in VERBS for noun in NOUNS], rng.randrange(1, 5))
        tools = [tool(rng, name) for name in names]
        for i in range(min(10, number - 10 * group)):
            mode = modes[(10 * group + i) % len(modes)]
            found.append((mode, chat(rng, mode, tools, max_tokens, delimiters)))
    return found


def chat(rng: random.Random, mode: str, tools: list[Json], max_tokens: int, delimiters: Sequence[int]) -> Json:
    chosen = rng.choice(tools)["function"]["name"]
    verb, _, noun = chosen.partition("_")
    one, other = rng.sample(VALUES, 2)
    text = rng.choice(ASKS).format(verb=verb, noun=noun, value=one, other=other, word=rng.choice(WORDS))
    body: Json = {
        "model": "model",
        "messages": [{"role": "user", "content": text}],
        "tools": tools,
        "seed": rng.randrange(2**31),
        "temperature": rng.choice([0, 0.7, 1.0]),
        "max_tokens": max_tokens,
    }
    match mode:
        case "required":
            body["tool_choice"] = "required"
        case "named":
            body["tool_choice"] = {"type": "function", "function": {"name": chosen}}
        case "strict":
            body["tools"] = [{**t, "function": {**t["function"], "strict": True}} for t in tools]
    if mode in {"strict", "auto"}:  # this model writes calls without delimiters where nothing holds it
        tokens = delimiters if mode == "auto" else delimiters[:1]
        body["logit_bias"] = {str(token): rng.choice(BIASES) for token in tokens}
        body["messages"] = [*earlier_call(rng, rng.choice(tools)["function"]), *body["messages"]]
    return body


def earlier_call(rng: random.Random, function: Json) -> list[Json]:
    """A turn of the same chat that called a tool."""
    arguments = {name: value(rng, part) for name, part in function.get("parameters", {}).get("properties", {}).items()}
    call = {"name": function["name"], "arguments": json.dumps(arguments)}
    return [
        {"role": "user", "content": f"Please {function['name'].replace('_', ' the ')}."},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": rng.choice(VALUES)},
    ]


def value(rng: random.Random, part: Json) -> Any:
    """A value that validates against a schema of `schema`."""
    if "enum" in part or "const" in part:
        return rng.choice(part.get("enum") or [part["const"]])
    if "anyOf" in part:
        return None
    match part["type"]:
        case "integer" | "number":
            return part["minimum"] + 1
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [value(rng, part["items"])]
        case "object":
            return {name: value(rng, inner) for name, inner in part["properties"].items()}
    return "AB-12" if "pattern" in part else "2031-05-04" if "format" in part else rng.choice(VALUES)


async def whole(session: aiohttp.ClientSession, body: Json) -> Json:
    """Content, calls and finish reason of an answer; `error` where there is none."""
    async with session.post("/v1/chat/completions", json=body) as response:
        answer = await response.json()
    if response.status != 200:
        return {"error": answer}
    choice = answer["choices"][0]
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in choice["message"].get("tool_calls") or ()]
    return {"content": choice["message"]["content"] or "", "calls": calls, "reason": choice["finish_reason"]}


async def streamed(session: aiohttp.ClientSession, body: Json) -> Json:
    """The same of a stream, joined together."""
    content, calls, reason = "", [], None
    async with session.post("/v1/chat/completions", json={**body, "stream": True}) as response:
        if response.status != 200:
            return {"error": await response.json()}
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return {"error": chunk}
            for choice in chunk["choices"]:
                content += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls") or ():
                    if call["index"] == len(calls):
                        calls.append(["", ""])
                    calls[call["index"]][0] += call["function"].get("name") or ""
                    calls[call["index"]][1] += call["function"].get("arguments") or ""
                reason = choice["finish_reason"] or reason
    return {"content": content, "calls": [tuple(call) for call in calls], "reason": reason}


def judge(tally: Tally, mode: str, body: Json, answer: Json, stream: Json) -> None:
    """Count what is right and wrong with the two forms of one answer."""
    tally.counts[mode, "chats"] += 1
    detail = json.dumps({"body": body, "whole": answer, "stream": stream})
    if "error" in answer or "error" in stream:
        return tally.fail(mode, "errors", detail)
    if answer != stream:
        tally.fail(mode, "stream differs from whole", detail)
    if any(delimiter in answer["content"] + stream["content"] for delimiter in DELIMITERS):
        tally.fail(mode, "delimiters in content", detail)
    cut = answer["reason"] == "length"
    tally.counts[mode, "cut by max_tokens"] += cut
    calls = answer["calls"][: -1 if cut else None]  # the last may be what was cut
    tally.counts[mode, "calls"] += len(calls)
    if mode in {"required", "named"} and not cut and (not calls or answer["content"]):
        tally.fail(mode, "no call, or more than calls", detail)
    if mode == "named" and len(answer["calls"]) > 1:
        tally.fail(mode, "more than one call", detail)
    problems = [problem for call in calls if (problem := wrong(body, *call))]
    if problems and mode != "auto":
        tally.fail(mode, "calls that do not validate", f"{problems} {detail}")
    elif problems:
        tally.counts[mode, "calls that do not validate (nothing holds them)"] += 1
    return None


def wrong(body: Json, name: str, arguments: str) -> str:
    """Return why a call is none of the request's tools; empty if it is."""
    tools = {t["function"]["name"]: t["function"] for t in body["tools"]}
    if name not in tools:
        return f"no tool {name}"
    try:
        jsonschema.validate(json.loads(arguments), tools[name].get("parameters", {"type": "object"}))
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error)[:200]
    return ""


async def token_of(session: aiohttp.ClientSession, text: str) -> int:
    body = {"model": "model", "prompt": text, "add_special_tokens": False}
    async with session.post("/tokenize", json=body) as response:
        (token,) = (await response.json())["tokens"]
    return int(token)


async def run(url: str, args: argparse.Namespace) -> Tally:
    tally, slots = Tally(), asyncio.Semaphore(args.concurrency)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=600)

    async def one(session: aiohttp.ClientSession, mode: str, body: Json) -> None:
        async with slots:
            judge(tally, mode, body, await whole(session, body), await streamed(session, body))
            done = sum(count for (_, what), count in tally.counts.items() if what == "chats")
            if done % 50 == 0:
                print(f"{done} chats, {len(tally.failures)} failures", file=sys.stderr, flush=True)

    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        delimiters = [await token_of(session, text) for text in DELIMITERS]
        asked = chats(args.seed, args.prompts, args.max_tokens, args.modes, delimiters)
        await asyncio.gather(*(one(session, mode, body) for mode, body in asked))
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--model", default=MODEL)
    args = parser.parse_args()
    started = time.monotonic()
    with served(args.model, "--max-num-seqs", str(args.concurrency)) as server:
        tally = asyncio.run(run(server.url, args))
    for text in tally.failures[:SHOWN]:
        print(text)
    for mode in MODES:
        shown = ", ".join(f"{what} {count}" for (m, what), count in sorted(tally.counts.items()) if m == mode)
        print(f"{mode}: {shown}")
    print(f"{len(tally.failures)} failures in {time.monotonic() - started:.0f} s")
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
