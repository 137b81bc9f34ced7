"""What one request, client or signal costs everyone else: streams run while each of them is tried.

For each case: its answer, the longest gap between two tokens of a neighbour's stream, how late the API server's event
loop ran at most (as a bucket of its histogram), and the memory peak of each process. The server gets the arguments of
the pod that the operator plans for SmolLM2 on a CPU. Goals, on two quiet cores: no gap above 0.6 s, no more memory than
that pod's limit, and nothing 5xx but 503 with Retry-After.

    python bench/stall.py                       # every case, 16 streams
    python bench/stall.py --cases ids deep      # those whose name holds one of the words
    python bench/stall.py --octavo OTHER/octavo # another version, for a comparison
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from planned_pod import memory_of, planned

GOAL_GAP = 0.6
LIMIT_SECONDS = 60.0  # for one case
SETTLE_SECONDS = 1.0
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
Answer = tuple[str, bool]  # what is shown, and whether it is as it should be


@dataclass
class Server:
    """One running server, its processes, and where it listens."""

    process: subprocess.Popen[str]
    port: int
    pids: dict[int, str] = field(default_factory=dict)

    def look_for_processes(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.pids = {self.process.pid: "api"}
        for pid in map(int, children):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            self.pids[pid] = "core" if b"core_process" in command else "renderer"

    def reset_peaks(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peaks(self) -> dict[str, int]:
        """MiB by process."""
        found = {}
        for pid, name in self.pids.items():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                found[name] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024
        return found

    def send(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        """One request; what it is answered, and whether that is allowed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS)
        try:
            connection.request("POST", path, body, headers or {})
            response = connection.getresponse()
            response.read()
        except OSError as error:
            return type(error).__name__, True
        finally:
            connection.close()
        status = response.status
        return str(status), status < 500 or (status == 503 and response.getheader("Retry-After") is not None)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_SECONDS)


def completion(**fields: Any) -> Callable[[Server], Answer]:
    body = json.dumps({"prompt": "hello", "max_tokens": 2, **fields}).encode()
    return lambda server: server.send(COMPLETIONS, body)


def chat(**fields: Any) -> Callable[[Server], Answer]:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **fields}).encode()
    return lambda server: server.send(CHATS, body)


def raw(path: str, body: bytes, **headers: str) -> Callable[[Server], Answer]:
    return lambda server: server.send(path, body, {name.replace("_", "-"): value for name, value in headers.items()})


def words(rng: random.Random, characters: int) -> str:
    known = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) + " " for _ in range(2000)]
    return "".join(rng.choices(known, k=characters // 4))[:characters]


def unbounded(server: Server) -> Answer:
    """A chunked body that goes on until it is refused, of 64 MiB at most."""
    with server.connect() as connection:
        connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(64):
                connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
            return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True
        except OSError as error:
            return type(error).__name__, True


def many_slow(server: Server) -> Answer:
    """400 connections that send a byte of their body now and then, and 100 that send nothing."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(500)]
        for connection in connections[:400]:
            connection.sendall(head)
        for _ in range(5):
            for connection in connections[:400]:
                connection.sendall(b" ")
            time.sleep(0.5)
    return "held", True


def deaf(server: Server) -> Answer:
    """50 streams that nobody reads."""
    body = json.dumps({"prompt": "hello", "max_tokens": 200, "stream": True, "logprobs": 5}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.port))
            stack.enter_context(connection).sendall(head + body)
        time.sleep(4)
    return "held", True


def pipelined(server: Server) -> Answer:
    """300 requests in one write."""
    body = b'{"prompt": "a", "max_tokens": 1}'
    one = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with server.connect() as connection:
        connection.sendall(one * 300)
        return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True


def tiny_chunks(server: Server) -> Answer:
    """A body of 300,000 chunks of a byte."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with server.connect() as connection:
        try:
            connection.sendall(head + b"1\r\n \r\n" * 300_000)
            return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True
        except OSError as error:
            return type(error).__name__, True


def thousands(server: Server) -> Answer:
    """As many connections as this process may hold, 10,000 at most, half of which trickle a head."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 200)
    try:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(server.connect()) for _ in range(count)]
            for byte in (b"G", b"E", b"T", b" "):
                for connection in connections[::2]:
                    connection.sendall(byte)
                time.sleep(0.5)
            return f"{count} held", True
    except OSError as error:
        return type(error).__name__, True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stopped_clients(server: Server) -> Answer:
    """20 clients in a process that is stopped in the middle of their streams."""
    body = json.dumps({"prompt": "hello", "max_tokens": 300, "stream": True}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    child = os.fork()
    if child == 0:
        held = [server.connect() for _ in range(20)]
        for connection in held:
            connection.sendall(head + body)
        while True:
            time.sleep(60)
    time.sleep(1)
    os.kill(child, signal.SIGSTOP)
    time.sleep(4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "held", True


def endless(*fields: bytes) -> Callable[[Server], Answer]:
    """A body of a gigabyte by its headers, which is sent until it is refused."""

    def attempt(server: Server) -> Answer:
        with server.connect() as connection:
            connection.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\n".encode() + b"\r\n".join([*fields, b"", b""])
            )
            try:
                for _ in range(64):
                    connection.sendall(b" " * 2**20)
            except OSError:
                pass
            try:
                return connection.recv(100).split(b"\r\n")[0].decode()[9:12] or "closed", True
            except OSError as error:
                return type(error).__name__, True

    return attempt


def stopped_renderer(server: Server) -> Answer:
    """The renderer's process stops while a chat is rendered, and another follows."""
    for pid in [pid for pid, name in server.pids.items() if name == "renderer"]:
        os.kill(pid, signal.SIGKILL)
    return chat()(server)


def cases(rng: random.Random) -> dict[str, Callable[[Server], Answer]]:
    """By name; bodies are made before anything is measured."""
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
        "template variables of 3 MB": chat(chat_template_kwargs={"x": text[:3_000_000]}),
        "metadata of 3 MB": completion(metadata={"x": text[:3_000_000]}, user=text[:100_000]),
        "deep JSON": raw(COMPLETIONS, b'{"prompt": "a", "x": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        "a number of 4 MB": raw(COMPLETIONS, b'{"prompt": "a", "seed": ' + b"7" * 4_000_000 + b"}"),
        "a bomb of gzip": raw(COMPLETIONS, gzip.compress(b" " * 80_000_000), Content_Encoding="gzip"),
        "16 million ids to /detokenize": raw("/detokenize", b'{"tokens": [' + b"9," * 16_000_000 + b"9]}"),
        "100,000 ids to /detokenize": raw("/detokenize", json.dumps({"tokens": million[:100_000]}).encode()),
        "a body without an end": unbounded,
        "a body of 1 GB": endless(b"Content-Length: 1000000000"),
        "a body of tiny chunks": tiny_chunks,
        "members of objects, 4 MB": chat(messages=[{str(i): i for i in range(300_000)}]),
        "4,000 messages of 15 parts": chat(
            messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 15}] * 4000
        ),
        "a text of escapes, 4 MB": completion(prompt=chr(233) * 650_000),
        "log-probabilities of 288 answers of 400 tokens": completion(prompt=["a"] * 288, logprobs=20, max_tokens=400),
        "slow connections": many_slow,
        "10,000 connections": thousands,
        "clients that are stopped": stopped_clients,
        "readers that do not read": deaf,
        "300 pipelined requests": pipelined,
        "a renderer that was killed": stopped_renderer,
    }


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


def loop_delays(server: Server) -> dict[float, float]:
    """How often the event loop was at most so late; empty for a version that does not say."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        float(bound): float(count)
        for bound, count in re.findall(r'octavo:event_loop_delay_seconds_bucket\{.*?le="([^"]+)".*?\} (\S+)', text)
    }


def slowest(before: dict[float, float], after: dict[float, float]) -> str:
    """The bucket of the latest beat between both."""
    grown = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(grown.values(), default=0.0)
    return next((f"≤ {bound:g} s" for bound, count in sorted(grown.items()) if count == total), "?") if total else "?"


@contextlib.contextmanager
def serving(command: list[str]) -> Any:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if " is served at " in line:
                port = int(line.split(" is served at ")[1].split("/v1")[0].rpartition(":")[2])
                break
        else:
            raise SystemExit("the server did not start:\n" + "".join(said))
        # What else it says is read, so that it never waits, and shown.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=sys.stderr)
        yield Server(process, port)
        process.terminate()
        drain.wait()
    finally:
        process.kill()
        process.wait()


def missed(goal: bool) -> str:
    return " !" if goal else ""


async def measure(server: Server, chosen: dict[str, Callable[[Server], Answer]], streams: int, limit: int) -> int:
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
        for name, attempt in cases(random.Random(options.seed)).items()
        if any(word in name for word in options.cases)
    }
    made = planned({})
    with serving([options.octavo, "serve", *made.engine.line("127.0.0.1", 0)]) as server:
        bad = asyncio.run(measure(server, chosen, options.streams, memory_of(made) >> 20))
    print(f"{len(chosen) - bad} of {len(chosen)} cases within the goals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
