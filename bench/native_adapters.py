"""Times decode steps whose requests have low-rank adapters beside steps of as many without, in turns.

    python -m bench.native_adapters MODEL [--adapters 8] [--rank 8 16] [--batch 8 32] [--dtype auto]

MODEL is whatever `octavo serve` takes. The adapters are random, one for each request in turn, to every module that can be
adapted. Prints each round's ratio of throughput: median, quartiles, and the median steps.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from bench.native_step import Driver

from octavo_engine.core.outputs import SchedulerOutput
from octavo_engine.weights.adapter import Adapter, LowRank
from octavo_models.adapter_modules import adaptable

CONTEXT = 128
STEPS = 10  # of a round, and as many without adapters


def random_adapter(driver: Driver, adapter_id: int, rank: int) -> Adapter:
    """An adapter of `rank` to every weight, of small random factors."""
    draw = np.random.default_rng(adapter_id)
    parts = []
    for weight in adaptable(driver.spec):
        rows, columns = weight.shape
        a = draw.standard_normal((rank, columns), np.float32) * 0.01
        parts.append(LowRank(weight.name, a, draw.standard_normal((rows, rank), np.float32) * 0.01))
    return Adapter(adapter_id, tuple(parts))


def rounds(driver: Driver, batch: int, adapters: int, count: int) -> list[tuple[float, float]]:
    """Median seconds of a step without and with adapters, of each round."""
    kinds = {f"{name}{batch}": n for name, n in (("plain", 0), ("adapted", adapters))}
    lengths = {kind: {f"{kind}-{i}": CONTEXT for i in range(batch)} for kind in kinds}
    for at, (kind, number) in enumerate(kinds.items()):
        new = driver.add(lengths[kind], 1 + at * 2000, number)
        ids = frozenset(lengths[kind])
        driver.steps += 1
        driver.run(SchedulerOutput(driver.steps, new, (), lengths[kind], dict.fromkeys(ids, 1), ids))
    results = []
    for i in range(count):
        now = {}
        for kind in list(kinds)[:: 1 if i % 2 else -1]:
            positions = dict.fromkeys(lengths[kind], CONTEXT + i * STEPS)
            now[kind] = statistics.median(driver.decode(positions, STEPS))
        results.append((now[f"plain{batch}"], now[f"adapted{batch}"]))
    driver.prefill({"x": 1}, finished=tuple(name for each in lengths.values() for name in each))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="one thread by its CPU time, for a busy machine")
    args = parser.parse_args()
    driver = Driver(args.model, args.dtype, 1 if args.cpu_time else args.threads, 0.0, cpu_time=args.cpu_time)
    print(f"{driver.executor.capabilities.name}, dtype {args.dtype}, {args.adapters} adapters")
    for rank in args.rank:
        for adapter_id in range(1, args.adapters + 1):
            driver.executor.remove_adapter(adapter_id)
            driver.executor.add_adapter(random_adapter(driver, adapter_id, rank))
        for batch in args.batch:
            times = rounds(driver, batch, args.adapters, args.rounds)
            ratios = sorted(plain / adapted for plain, adapted in times)
            low, middle, high = statistics.quantiles(ratios, n=4)
            plain, adapted = (statistics.median(each) * 1e3 for each in zip(*times, strict=True))
            print(
                f"  rank {rank:3} batch {batch:3}: {middle:.3f} × the throughput without ({low:.3f} to {high:.3f}); "
                f"a step {plain:.2f} ms without, {adapted:.2f} ms with"
            )


if __name__ == "__main__":
    main()
