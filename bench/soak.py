"""The largest requests that a server admits, several at a time, within the memory that the planner gives its pod.

Plans a service of SmolLM2 on a CPU, starts `octavo serve` with the container's arguments in a memory cgroup of the
planned limit (root, cgroup v1 or v2; elsewhere the peak is measured alone), and sends requests at the edge of every
bound of docs/reference/limits.md for a while. Nothing may be killed, and the peak must stay within the limit.

    python -m bench.soak                          # two minutes, four requests at a time
    python -m bench.soak --max-model-len 2048     # another plan
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bench.planned_pod import memory_of, planned
from bench.stall_requests import chat, completion, raw, words
from bench.stall_server import Answer, Server, port_of

from octavo_operator.planner import Plan
from octavo_operator.planner.sizes import MIB

SAMPLE_S = 0.05
PATIENCE_S = 60.0
ROOTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Try whether the largest requests fit the planned memory.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--no-limit", action="store_true", help="measure the peak without a cgroup")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = planned({} if options.max_model_len is None else {"maxModelLen": options.max_model_len})
    limit = memory_of(made)
    requests = largest(random.Random(options.seed), made.limits.max_model_len or 0)
    print(f"planned: {limit // MIB} MiB; {len(requests)} kinds of requests, {options.at_once} at a time")
    group = None if options.no_limit else Group.of(limit)
    with Served(made, group) as served:
        began, start = time.monotonic(), served.peak()
        print(f"once served {start // MIB} MiB")
        answers = served.send(requests, options.at_once, options.seconds)
        killed = 0 if group is None else group.killed
        ended = None if served.answers() else "it no longer answers"
    print(f"{sum(answers.values())} requests in {time.monotonic() - began:.0f} s: {dict(sorted(answers.items()))}")
    print(f"peak {served.highest // MIB} MiB of {limit // MIB} MiB; by process {served.by_process}; killed: {killed}")
    good = ended is None and not killed and served.highest <= limit
    good = good and not any(answer.startswith("5") and answer != "503" for answer in answers)
    print("within the plan" if good else f"NOT within the plan (the server: {ended})")
    return 0 if good else 1


def largest(rng: random.Random, context: int) -> dict[str, Callable[[Server], Answer]]:
    """Each at one bound of docs/reference/limits.md, or a little beyond."""
    text = words(rng, 4_200_000)
    ids = [rng.randrange(100, 40_000) for _ in range(130_000)]
    wide = "\U0001f600" * 1_000_000  # four bytes a character in Python, four on the wire
    return {
        "a context of ids": completion(prompt=ids[: context - 8], max_tokens=4),
        "130,000 ids in prompts": completion(prompt=[ids[i : i + 100] for i in range(0, 26_000, 100)], max_tokens=1),
        "130,000 ids, too long": completion(prompt=ids),
        "a million characters": completion(prompt=text[:1_000_000]),
        "a million characters to /tokenize": raw("/tokenize", json.dumps({"prompt": text[:1_040_000]}).encode()),
        "a million wide characters": raw("/tokenize", json.dumps({"prompt": wide}, ensure_ascii=False).encode()),
        "half a million rare characters": raw(
            "/tokenize",
            json.dumps(
                {"prompt": "".join(chr(rng.randrange(0x20000, 0x2A000)) for _ in range(500_000))}, ensure_ascii=False
            ).encode(),
        ),
        "a million digits": raw(
            "/tokenize", json.dumps({"prompt": "".join(rng.choices("0123456789", k=1_040_000))}).encode()
        ),
        "the same, escaped": raw("/tokenize", json.dumps({"prompt": wide[:340_000]}).encode()),
        "100 prompts of 8,000 characters": completion(prompt=[text[i * 8000 : i * 8000 + 8000] for i in range(100)]),
        "4,000 messages": chat(messages=[{"role": "user", "content": text[i : i + 250]} for i in range(4000)]),
        "a message of a million characters": chat(messages=[{"role": "user", "content": text[:1_000_000]}]),
        "tools of 3 MB": chat(
            tools=[{"type": "function", "function": {"name": "f", "description": text[:900_000]}}], tool_choice="none"
        ),
        "metadata of 4 MB": completion(metadata={"x": text[:4_000_000]}),
        "130,000 members": raw(
            "/v1/completions", json.dumps({"prompt": "a", "x": {f"k{i}": i for i in range(65_000)}}).encode()
        ),
        "130,000 lists": raw("/v1/completions", b'{"prompt": "a", "x": [' + b"[]," * 130_000 + b"[]]}"),
        "prompt log-probabilities": completion(prompt=ids[:1000], prompt_logprobs=20, max_tokens=1),
        "allowed ids": completion(allowed_token_ids=list(range(49_000)), n=16, max_tokens=2),
        "16,000 characters of bad words": completion(bad_words=[text[i * 15 : i * 15 + 15] + "x" for i in range(1000)]),
        "128 stop strings, n 128": completion(stop=[text[i * 31 : i * 31 + 31] for i in range(128)], n=128),
        "128 choices": completion(n=128, max_tokens=32, logprobs=5, ignore_eos=True),
    }


class Group:
    """A memory cgroup with a limit."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        folder.mkdir()
        self._second = not (folder / "memory.limit_in_bytes").exists()  # cgroup v2
        (folder / ("memory.max" if self._second else "memory.limit_in_bytes")).write_text(str(limit))

    @classmethod
    def of(cls, limit: int) -> Group | None:
        for root in ROOTS:
            try:
                return cls(root / f"octavo-soak-{os.getpid()}", limit)
            except OSError:
                continue
        print("no memory cgroup can be made here: the peak is measured without a limit")
        return None

    @property
    def members(self) -> str:
        """The file that takes the ids of processes."""
        return str(self._folder / "cgroup.procs")

    @property
    def used(self) -> int:
        """Bytes that can't be reclaimed: page cache of files is not among them."""
        stat = (self._folder / "memory.stat").read_text()
        names = ("anon", "shmem", "kernel") if self._second else ("total_rss", "total_shmem")
        return sum(int(value) for value in re.findall(rf"^(?:{'|'.join(names)}) (\d+)$", stat, re.MULTILINE))

    @property
    def killed(self) -> int:
        text = (self._folder / ("memory.events" if self._second else "memory.oom_control")).read_text()
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def remove(self) -> None:
        for _ in range(100):
            try:
                self._folder.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                return


class Served:
    """One server in its group, and what it has taken at most."""

    def __init__(self, made: Plan, group: Group | None) -> None:
        self._group = group
        octavo = str(Path(sys.executable).with_name("octavo"))
        self._command = [octavo, "serve", *made.engine.line("127.0.0.1", 0)]
        self.highest = 0
        self.by_process: dict[str, int] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        enter = [] if self._group is None else ["sh", "-c", 'echo $$ > "$0" && exec "$@"', self._group.members]
        self.process = subprocess.Popen(
            [*enter, *self._command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._server = Server(self.process, port_of(self.process))
        threading.Thread(target=self._drain, daemon=True).start()
        self._watch = threading.Thread(target=self._run, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._group is not None:
            self._group.remove()

    def answers(self) -> bool:
        """True if the server and its engine are there."""
        end = time.monotonic() + PATIENCE_S  # for what it still works on
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._server.port}/health", timeout=5):
                    return True
            except OSError:
                time.sleep(1)
        return False

    def peak(self) -> int:
        self._sample()
        return self.highest

    def send(self, requests: dict[str, Callable[[Server], Answer]], at_once: int, seconds: float) -> Counter[str]:
        """All kinds in turn by each of several clients, until time is over."""
        answers: Counter[str] = Counter()
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            kinds = list(requests)
            random.Random(number).shuffle(kinds)
            turn = 0
            while time.monotonic() < end and self.process.poll() is None:
                answer, _ = requests[kinds[turn % len(kinds)]](self._server)
                answers[answer] += 1
                turn += 1

        clients = [threading.Thread(target=client, args=(number,)) for number in range(at_once)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        return answers

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        self._server.look_for_processes()
        used = {}
        for pid, name in self._server.pids.items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            found = {key: int(value) // 1024 for key, value in re.findall(r"(VmHWM|RssAnon|RssShmem):\s+(\d+)", status)}
            if "RssAnon" in found:
                used[name] = found["RssAnon"] + found["RssShmem"]
                self.by_process[name] = max(self.by_process.get(name, 0), used[name])
        total = sum(used.values()) * MIB if self._group is None else self._group.used
        self.highest = max(self.highest, total)

    def _drain(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            sys.stderr.write(line)


if __name__ == "__main__":
    sys.exit(main())
