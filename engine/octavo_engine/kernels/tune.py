"""Finds launch parameters for this machine's GPU: `python -m octavo_engine.kernels.tune --output parameters.json`.

Times each candidate of each launch on a shape that stands for its kind, and writes the fastest, some minutes in all. The
file is for `octavo serve --kernel-parameters`; nothing is tuned there. A candidate that does not compile or run is
left out, with a line that says why.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import triton

from octavo_engine.errors import ExecutorError
from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.operations import PagedBatch
from octavo_engine.kernels.reference_quantized import quantize, quantize_float8
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS, Parameters
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_models.layers import Attention, Experts, Latent, Mlp

BLOCK_SIZE = 16
# What is tried, per kind of launch; a program that doesn't fit the GPU is left out when it says so.
CANDIDATES: dict[str, dict[str, tuple[int, ...]]] = {
    "prefill": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "num_warps": (4, 8), "num_stages": (2, 3, 4, 5)},
    "decode": {
        "BLOCK_N": (16, 32, 64, 128),
        "SPLIT": (256, 512),
        "PROGRAMS_PER_SM": (2, 3, 4),
        "num_warps": (2, 4),
        "num_stages": (2, 3, 4, 5),
    },
    "packed": {
        "BLOCK_N": (32, 64, 128),
        "BLOCK_K": (64, 128),
        "SPLIT_K": (1, 2, 4),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
    "experts": {
        "BLOCK_N": (32, 64, 128),
        "BLOCK_K": (64, 128),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    "shrink": {
        "BLOCK_R": (16, 64),
        "BLOCK_K": (64, 128),
        "SPLIT_K": (1, 4, 8),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
    "expand": {"BLOCK_N": (64, 128), "num_warps": (4, 8), "num_stages": (2, 3)},
    "float8": {
        "BLOCK_N": (64, 128),
        "BLOCK_K": (128, 256),
        "SPLIT_K": (1, 2, 4),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
}


def candidates(name: str, default: Parameters) -> Iterator[Parameters]:
    """The default first, then every combination of `name`'s kind; what a kind doesn't vary stays the default's."""
    yield default
    choices = CANDIDATES[name.partition(".")[0]]
    for values in itertools.product(*choices.values()):
        candidate = {**default, **dict(zip(choices, values, strict=True))}
        if candidate != default:
            yield candidate


def fastest(tried: Iterator[Parameters], time: Callable[[Parameters], float | None]) -> tuple[Parameters, float] | None:
    """The candidate of least time, the first of equals; None if none ran. `time` gives None for what doesn't fit."""
    best: tuple[Parameters, float] | None = None
    for candidate in tried:
        taken = time(candidate)
        if taken is not None and (best is None or taken < best[1]):
            best = candidate, taken
    return best


def workload(name: str, device: torch.device) -> Callable[[TritonOperations], object]:
    """The workload that `name`'s kernel is timed on: prompts of 1,024 tokens, 32 contexts of 4,096, products of 4,096
    squared, 64 experts of 768, of which tokens of 2,048 take eight, or eight adapters of rank 16 to q, k and v."""
    kind, _, size = name.partition(".")
    if kind in {"shrink", "expand"}:
        return _adapters({"16": 32, "64": 2048}[size], device)
    if kind == "experts":
        return _experts({"16": 16, "64": 512, "128": 4096}[size], device)
    if kind in {"packed", "float8"}:
        rows = {"16": 8, "64": 64, "128": 1024}[size]
        x = torch.randn(rows, 4096, dtype=torch.bfloat16, device=device)
        plain = torch.randn(4096, 4096, device=device)
        weight = quantize(plain, bits=4) if kind == "packed" else quantize_float8(plain)
        return lambda ops: ops.matmul(x, weight)
    n, length = (4, 1024) if kind == "prefill" else (32, 4096)
    if size == "latent":
        spec = Attention(16, 1, 192, 128, 192**-0.5, None, latent=Latent(512, 64)).absorbed
    else:
        spec = Attention(32, 8, int(size), int(size), int(size) ** -0.5, None)
    blocks, dim = length // BLOCK_SIZE, spec.head_dim_k
    shape = 2, n * blocks + 1, BLOCK_SIZE, spec.num_kv_heads, dim
    k, v = torch.randn(shape, dtype=torch.bfloat16, device=device).unbind()
    ints = {"dtype": torch.int32, "device": device}
    queries = length if kind == "prefill" else 1
    batch = PagedBatch(
        rows=torch.arange(n, **ints),  # type: ignore[call-overload]
        query_starts=torch.arange(n + 1, **ints) * queries,  # type: ignore[call-overload]
        seq_lens=torch.full((n,), length, **ints),  # type: ignore[call-overload]
        block_tables=(torch.randperm(n * blocks, device=device) + 1).int().view(n, blocks),
        slots=torch.zeros(n * queries, dtype=torch.int64, device=device),
        num_decodes=0 if kind == "prefill" else n,
        max_query_len=queries,
        max_seq_len=length,
    )
    q = torch.randn(n * queries, spec.num_heads, dim, dtype=torch.bfloat16, device=device)
    return lambda ops: ops.attention(q, k, v, batch, spec)


def _adapters(num_tokens: int, device: torch.device) -> Callable[[TritonOperations], object]:
    like = {"dtype": torch.bfloat16, "device": device}
    num, rank, sizes = 8, 16, (4096, 1024, 1024)
    a, b = torch.randn(num, 3 * rank, 4096, **like), torch.randn(num, sum(sizes), rank, **like)  # type: ignore[call-overload]
    ranks = torch.full((num,), rank, dtype=torch.int32, device=device)
    weights = AdapterWeights(a, b, sizes, ranks)
    x, y = torch.randn(num_tokens, 4096, **like), torch.zeros(num_tokens, sum(sizes), **like)  # type: ignore[call-overload]
    order = torch.arange(num_tokens, dtype=torch.int32, device=device)
    each = num_tokens // num

    def run(ops: TritonOperations) -> None:
        tile = ops.adapter_tile(num_tokens)
        firsts = [(slot, at) for slot in range(num) for at in range(slot * each, (slot + 1) * each, tile)]
        tiles = [(slot, at, min(at + tile, (slot + 1) * each)) for slot, at in firsts]
        rows = AdapterRows(order, torch.tensor(tiles, dtype=torch.int32, device=device).T.contiguous(), tile)
        ops.add_adapters(y, x, weights, rows)

    return run


def _experts(num_tokens: int, device: torch.device) -> Callable[[TritonOperations], object]:
    mixture = Experts(64, 8, Mlp(768))
    like = {"dtype": torch.bfloat16, "device": device}
    x = torch.randn(num_tokens, 2048, **like)  # type: ignore[call-overload]
    gate, up = torch.randn(2, 64 * 768, 2048, **like).unbind()  # type: ignore[call-overload]
    weights = ExpertWeights(gate, up, torch.randn(64 * 2048, 768, **like))  # type: ignore[call-overload]
    chosen = torch.rand(num_tokens, 64, device=device).argsort(-1)[:, :8].int()
    shares = torch.rand(num_tokens, 8, device=device)
    return lambda ops: ops.experts(x, chosen, shares, weights, mixture)


def time_on(
    launcher: Launcher, name: str, run: Callable[[TritonOperations], object]
) -> Callable[[Parameters], float | None]:
    """Milliseconds of `run` with a candidate for `name`, the median of some dozens; None where it doesn't fit."""

    def time(candidate: Parameters) -> float | None:
        ops = TritonOperations(replace(launcher, tuned={name: candidate}))
        try:
            return float(triton.testing.do_bench(lambda: run(ops), return_mode="median"))
        except Exception as error:  # noqa: BLE001 — as the compiler's passes raise
            # Too much shared memory or too many registers, a pass or ptxas that gives up: each says so in its own way.
            try:
                torch.cuda.synchronize()
            except Exception:  # noqa: BLE001 — whatever it says
                raise ExecutorError(f"{name} with {dict(candidate)} corrupted the GPU's context: {error}") from error
            print(f"{name}: {dict(candidate)} does not run: {_first_line(error)}", file=sys.stderr)  # noqa: T201
            return None

    return time


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="such as decode.128; default: all")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA GPU to tune for")
    device = torch.device("cuda")
    gpu = Gpu.of(device)
    launcher = Launcher(gpu)
    chosen: dict[str, Parameters] = {}
    for name, default in DEFAULTS[gpu.family].items():
        if (arguments.only and name not in arguments.only) or (name.startswith("float8") and gpu.capability < 89):
            continue
        time = time_on(launcher, name, workload(name, device))
        best = fastest(candidates(name, default), time)
        if best is None:
            print(f"{name}: no candidate fits this GPU", file=sys.stderr)  # noqa: T201
            continue
        chosen[name] = dict(best[0])
        print(f"{name}: {time(default) or float('nan'):.3f} → {best[1]:.3f} ms {best[0]}")  # noqa: T201
    written = {
        "gpu": torch.cuda.get_device_name(),
        "capability": gpu.capability,
        "triton": triton.__version__,
        "launches": chosen,
    }
    arguments.output.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("tune", main))
