"""Requests that are large or odd in themselves, for `stall.py`: each is one answer over one connection."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

from bench.stall_server import CHATS, COMPLETIONS, Attempt


def completion(**fields: Any) -> Attempt:
    body = json.dumps({"prompt": "hello", "max_tokens": 2, **fields}).encode()
    return lambda server: server.send(COMPLETIONS, body)


def chat(**fields: Any) -> Attempt:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **fields}).encode()
    return lambda server: server.send(CHATS, body)


def raw(path: str, body: bytes, **headers: str) -> Attempt:
    return lambda server: server.send(path, body, {name.replace("_", "-"): value for name, value in headers.items()})


def called(arguments: str) -> dict[str, Any]:
    """A message that calls a tool."""
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


def words(rng: random.Random, characters: int) -> str:
    known = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) + " " for _ in range(2000)]
    return "".join(rng.choices(known, k=characters // 4))[:characters]


def large_requests(rng: random.Random) -> dict[str, Attempt]:
    """The large requests by name; bodies are made before anything is measured."""
    text = words(rng, 8_000_000)
    million = [rng.randrange(100, 40_000) for _ in range(999_999)]
    return {
        "nothing": lambda _server: ("–", True),
        "million ids, the last one -100": completion(prompt=[*million, -100]),
        "list of 60,000 ids, the last one -100": completion(prompt=[*million[:60_000], -100]),
        "a bad word of 8 MB": completion(bad_words=[text]),
        "1,024 bad words": completion(bad_words=[text[i * 15 : i * 15 + 15] + "x" for i in range(1024)]),
        "1,000 prompts of 8,000 characters": completion(prompt=[text[i * 8000 : i * 8000 + 8000] for i in range(1000)]),
        "100 prompts of 8,000 characters": completion(prompt=[text[i * 8000 : i * 8000 + 8000] for i in range(100)]),
        "two million allowed ids, n 8": completion(allowed_token_ids=million * 2, n=8),
        "49,000 allowed ids, n 16": completion(allowed_token_ids=list(range(49_000)), n=16),
        "8 MB to /tokenize": raw("/tokenize", json.dumps({"prompt": text}).encode()),
        "1 MB to /tokenize": raw("/tokenize", json.dumps({"prompt": text[:1_000_000]}).encode()),
        "3,900 prompt log-probabilities of 20": completion(prompt=million[:3900], prompt_logprobs=20, max_tokens=1),
        "echo with log-probabilities of 3,900": completion(prompt=million[:3900], logprobs=5, echo=True, max_tokens=1),
        "a bias key of 5,000 digits": completion(logit_bias={"1" * 5000: 1}),
        "a million biases": completion(logit_bias={str(i): 1 for i in range(1_000_000)}),
        "a million stop strings": completion(stop=["x"] * 1_000_000),
        "128 stop strings, n 128": completion(stop=[text[i * 31 : i * 31 + 31] for i in range(128)], n=128),
        "a million messages": chat(messages=[{"role": "user", "content": "a"}] * 1_000_000),
        "4,000 messages": chat(messages=[{"role": "user", "content": "a"}] * 4000),
        "a message of a million parts": chat(
            messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 1_000_000}]
        ),
        "tools of 10 MB": chat(
            tools=[{"type": "function", "function": {"name": "f", "description": text}}], tool_choice="none"
        ),
        "template variables of 1.5 MB": chat(chat_template_kwargs={"x": text[:1_500_000]}),
        "metadata of 1.5 MB": completion(metadata={"x": text[:1_500_000]}, user=text[:100_000]),
        "deep JSON": raw(COMPLETIONS, b'{"prompt": "a", "x": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        "a number of 4 MB": raw(COMPLETIONS, b'{"prompt": "a", "seed": ' + b"7" * 4_000_000 + b"}"),
        "a million values in the arguments of a tool call": chat(messages=[called("[" + "1," * 900_000 + "1]")]),
        "arguments of a tool call that nest deeply": chat(messages=[called("[" * 500_000 + "]" * 500_000)]),
        "a Content-Type of 60 KB": raw(COMPLETIONS, b'{"prompt": "a"}', Content_Type="text/json; " + "a=b; " * 12_000),
        "300,000 characters of four bytes to /tokenize": raw(
            "/tokenize", json.dumps({"prompt": chr(0x1F9FF) * 300_000}, ensure_ascii=False).encode()
        ),
        "a bomb of deflate": raw(COMPLETIONS, zlib.compress(b" " * 80_000_000), Content_Encoding="deflate"),
        "a bomb of gzip": raw(COMPLETIONS, gzip.compress(b" " * 80_000_000), Content_Encoding="gzip"),
        "16 million ids to /detokenize": raw("/detokenize", b'{"tokens": [' + b"9," * 16_000_000 + b"9]}"),
        "100,000 ids to /detokenize": raw("/detokenize", json.dumps({"tokens": million[:100_000]}).encode()),
        "members of objects, 4 MB": chat(messages=[{str(i): i for i in range(300_000)}]),
        "4,000 messages of 15 parts": chat(
            messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 15}] * 4000
        ),
        "a text of escapes, 2 MB": completion(prompt=chr(233) * 340_000),
        "log-probabilities of 288 answers of 400 tokens": completion(prompt=["a"] * 288, logprobs=20, max_tokens=400),
    }
