"""Times the native executor's steps by themselves: decode at several batch sizes, prefill at several lengths.

    python -m bench.native_step MODEL [--dtype auto bfloat16 float32] [--batch 1 8 32] [--prompt 128 1024]

MODEL is whatever `octavo serve` takes. Prints tokens a second (the median step), and where the time of a step goes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator

from octavo_engine.config import EngineConfig, ExecutorConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

BLOCK = 16


class Driver:
    """One loaded executor and the steps it is given."""

    def __init__(self, model: str, dtype: str, threads: int | None, temperature: float, *, cpu_time: bool) -> None:
        self.clock = time.thread_time if cpu_time else time.perf_counter
        config = EngineConfig(
            model=ModelConfig(model=model, served_model_names=("model",), dtype=dtype),
            scheduler=SchedulerConfig(max_num_seqs=256, max_num_batched_tokens=8192),
            executor=ExecutorConfig(threads=threads),
        )
        files = resolve(config.model, lambda *_: None)
        self.spec = read_spec(config.model, files)
        self.executor = NativeExecutor(config, self.spec, files)
        start = time.perf_counter()
        capacity = self.executor.load()
        self.load_seconds = time.perf_counter() - start
        self.groups = len(capacity.layout.groups)
        self.executor.init_kv((4096,) * self.groups)
        self.sampling = SamplingParams(max_tokens=1 << 20, temperature=temperature)
        self.steps = 0
        self.random = random.Random(0)

    def add(self, lengths: dict[str, int]) -> tuple[NewRequest, ...]:
        """Requests of random tokens with blocks for 320 more."""
        news, block = [], 1
        for name, length in lengths.items():
            blocks = list(range(block, block + (length + 320) // BLOCK + 1))
            block = blocks[-1] + 1
            tokens = [self.random.randrange(self.spec.vocab_size) for _ in range(length)]
            news.append(NewRequest(name, tokens, self.sampling, tuple(list(blocks) for _ in range(self.groups)), 0))
        return tuple(news)

    def run(self, step: SchedulerOutput) -> float:
        start = self.clock()
        handle = self.executor.submit(step)
        self.executor.sample(handle)
        output = self.executor.collect(handle)
        elapsed = self.clock() - start
        assert not output.errors, output.errors
        return elapsed

    def prefill(self, lengths: dict[str, int], finished: tuple[str, ...] = ()) -> float:
        self.steps += 1
        ids = frozenset(lengths)
        return self.run(
            SchedulerOutput(self.steps, self.add(lengths), (), lengths, dict.fromkeys(lengths, 1), ids, finished)
        )

    def decode(self, lengths: dict[str, int], count: int) -> Iterator[float]:
        for i in range(count):
            self.steps += 1
            ones = dict.fromkeys(lengths, 1)
            continued = tuple(ContinuedRequest(r, ((),) * self.groups, n + i) for r, n in lengths.items())
            yield self.run(SchedulerOutput(self.steps, (), continued, ones, ones, frozenset(lengths)))


def shares(driver: Driver, steps: int) -> str:
    spent = driver.executor.phase_seconds()
    total = sum(spent.values())
    parts = [f"{name} {seconds / total:.0%}" for name, seconds in spent.items() if seconds / total >= 0.005]
    return f"{total / steps * 1e3:.2f} ms a step: " + ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "auto", "float32"])
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--prompt", nargs="*", type=int, default=[128, 1024])
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--phases", action="store_true", help="where the time goes (slows steps by some µs)")
    parser.add_argument("--cpu-time", action="store_true", help="one thread by its CPU time, for a busy machine")
    args = parser.parse_args()
    for dtype in args.dtype:
        threads = 1 if args.cpu_time else args.threads
        driver = Driver(args.model, dtype, threads, args.temperature, cpu_time=args.cpu_time)
        print(f"{driver.executor.capabilities.name}, dtype {dtype}, loaded in {driver.load_seconds:.2f} s")
        for batch in args.batch:
            lengths = {f"d{batch}-{i}": args.context for i in range(batch)}
            driver.prefill(lengths)
            list(driver.decode(lengths, 4))
            driver.executor.time_phases(on=args.phases)
            times = list(driver.decode({r: n + 4 for r, n in lengths.items()}, args.steps))
            best, middle = min(times), statistics.median(times)
            print(f"  decode  batch {batch:4}: {batch / middle:8.1f} tok/s (best step {batch / best:8.1f})", end="  ")
            print(shares(driver, args.steps) if args.phases else "")
            driver.prefill({"x": 1}, finished=(*lengths,))
            driver.executor.time_phases(on=False)
        for length in args.prompt:
            times = []
            for i in range(6):
                if i == 1:
                    driver.executor.time_phases(on=args.phases)
                times.append(driver.prefill({f"p{length}": length}, finished=(f"p{length}",)))
            times = times[1:]
            print(
                f"  prefill {length:10}: {length / statistics.median(times):8.1f} tok/s (best {length / min(times):8.1f})",
                end="  ",
            )
            print(shares(driver, len(times)) if args.phases else "")
            driver.executor.time_phases(on=False)


if __name__ == "__main__":
    main()
