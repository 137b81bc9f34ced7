"""All 121 linear layers of SmolLM2-135M, products alone: tokens/s by format and rows, beside what the machine allows.

The bound of a row count is the slower of two: reading every packed weight once at the measured bandwidth, and doing
every multiply-add at the measured peak of the instruction that the format uses. With `--torch`, torch's bf16
F.linear runs in turn with ours in the same process, so that both meet the same neighbours on a shared machine.

    python -m bench.matmul --formats bf16,q4_1 --rows 1,4,32,128 --threads 2 --torch
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from octavo_engine.executors.native import _native as native
from octavo_models.formats import FORMATS

# [out, in] of each layer's fused projections, and the head.
LAYER = ((960, 576), (576, 576), (3072, 576), (576, 1536))
HEAD = (49152, 576)
PEAKS = ("fma", "bf16 dot", "int8 dot")


def shapes_for(name: str) -> list[tuple[int, int]]:
    """The K formats need rows of 256: the nearest larger sizes stand in."""
    block = FORMATS[name].block_size
    return [(n, -(-k // block) * block) for n, k in (*LAYER * 30, HEAD)]


def make(name: str, shapes: list[tuple[int, int]], isa: int) -> list[object]:
    rng = np.random.default_rng(0)
    stored = FORMATS[name]
    matrices = []
    for n, k in shapes:
        # Bytes below 0x40 keep every f16 scale finite; speed does not depend on values.
        data = rng.integers(0, 0x30, n * k // stored.block_size * stored.bytes_per_block, dtype=np.uint8)
        matrices.append(native.pack([(stored.ggml_type, n, data)], k, -1, isa))
    return matrices


def torch_pass(shapes: list[tuple[int, int]], threads: int) -> Callable[[int], float]:
    import torch  # noqa: PLC0415  # only when asked for: it takes seconds

    torch.set_num_threads(threads)
    weights = [torch.randn(n, k).to(torch.bfloat16) for n, k in shapes]

    def run(rows: int) -> float:
        inputs = {k: torch.randn(rows, k).to(torch.bfloat16) for _, k in shapes}
        with torch.inference_mode():
            start = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)
            return time.perf_counter() - start

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="bf16,q4_1,q8_0")
    parser.add_argument("--rows", default="1,4,16,32,128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--isa", choices=native.ISAS, help="default: the most that this CPU has")
    parser.add_argument("--prepare", action="store_true", help="count preparing the activations of each product too")
    parser.add_argument("--torch", action="store_true")
    args = parser.parse_args()
    isa = native.best_isa() if args.isa is None else native.ISAS[args.isa]

    bandwidth = max(native.measure_bandwidth(256 << 20, args.threads, 30) for _ in range(3))
    peaks = [native.measure_peak(peak, args.threads) for peak in range(3)]
    print(
        f"{args.threads} threads: reading {bandwidth / 1e9:.1f} GB/s; "
        + ", ".join(f"{name} {value / 1e9:.0f} GMAC/s" for name, value in zip(PEAKS, peaks, strict=True))
    )
    torch_run = torch_pass(shapes_for("bf16"), args.threads) if args.torch else None
    print(
        f"{'format':8} {'MB':>5} {'rows':>5} {'tok/s':>8} {'GB/s':>6} {'of read':>8} {'GMAC/s':>7} {'of peak':>8} {'torch bf16':>10}"
    )
    for name in args.formats.split(","):
        shapes = shapes_for(name)
        matrices = make(name, shapes, isa)
        size = sum(matrix.bytes for matrix in matrices)
        macs = sum(n * k for n, k in shapes)
        peak = peaks[2 if name.startswith("q") else 1 if name == "bf16" else 0]
        for rows in map(int, args.rows.split(",")):
            ours, theirs = [], []
            for _ in range(args.repeats):
                # The first pass of a turn finds the caches as the other left them. Short passes are taken often: the
                # best of many is one that no neighbour interrupted.
                first = native.time_pass(matrices, rows, args.threads, 1, args.prepare, isa)[0]
                turns = max(2, int(0.03 / first))
                ours += native.time_pass(matrices, rows, args.threads, turns, args.prepare, isa)[1:]
                if torch_run is not None:
                    theirs += [torch_run(rows) for _ in range(max(2, turns // 2))][1:]
            best = min(ours)
            beside = f"{rows / min(theirs):10.0f}" if theirs else f"{'-':>10}"
            print(
                f"{name:8} {size / 1e6:5.0f} {rows:5} {rows / best:8.0f} {size / best / 1e9:6.1f} {size / best / bandwidth:8.0%} {macs * rows / best / 1e9:7.0f} {macs * rows / best / peak:8.0%} {beside}"
            )


if __name__ == "__main__":
    main()
