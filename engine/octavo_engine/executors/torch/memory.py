"""The bytes of a GPU that are left for KV blocks, once the largest step has been measured.

Owns what the largest step is, and the arithmetic; the executor runs it. Independent of models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from octavo_engine.config import SchedulerConfig
from octavo_engine.core.outputs import NewRequest, SchedulerOutput
from octavo_engine.errors import ExecutorError
from octavo_engine.sampling_params import SamplingParams
from octavo_models.spec import KVLayout

logger = logging.getLogger(__name__)

GIB = 1 << 30
EVERYTHING = SamplingParams(
    max_tokens=2,
    temperature=1.0,
    top_p=0.9,
    top_k=50,
    min_p=0.01,
    presence_penalty=0.1,
    repetition_penalty=1.1,
    min_tokens=1,
    eos_token_ids=(0,),
    logprobs=20,
    prompt_logprobs=20,
    logit_bias={0: 1.0},
    allowed_token_ids=(0, 1),
)


def longest_of_step(scheduler: SchedulerConfig) -> int:
    """Tokens of the longest request of `largest_step`."""
    total = scheduler.max_num_batched_tokens
    return -(-total // min(scheduler.max_num_seqs, total))


def largest_step(
    scheduler: SchedulerConfig,
    layout: KVLayout,
    max_len: int,
    *,
    draws: bool = True,
    adapter_ids: Sequence[int] = (),
) -> SchedulerOutput:
    """A step of as many requests and tokens as one may have; if it `draws`, each with everything that can be asked for.

    All of them write block 1 of each group: what they make is never read. They take turns in using `adapter_ids`.
    """
    total = scheduler.max_num_batched_tokens
    n = min(scheduler.max_num_seqs, total)
    new = []
    for i in range(n):
        length = min(total // n + (i < total % n), max_len)
        blocks = [1] * -(-length // layout.block_size)
        tables = tuple(list(blocks) for _ in layout.groups)
        adapter_id = adapter_ids[i % len(adapter_ids)] if adapter_ids else 0
        new.append(NewRequest(str(i), [0] * length, EVERYTHING, tables, 0, adapter_id))
    counts = {request.request_id: len(request.token_ids) for request in new}
    if not draws:
        return SchedulerOutput(0, tuple(new), (), counts, {}, frozenset())
    return SchedulerOutput(0, tuple(new), (), counts, counts, frozenset(counts))


class Counters(Protocol):
    """Counters of a device's memory, in bytes."""

    def total(self) -> int: ...

    def free(self) -> int:
        """Free bytes of the device, after PyTorch has released its reserve."""

    def held(self) -> int:
        """Bytes that PyTorch holds, its reserve included."""

    def peak(self, run: Callable[[], object]) -> int:
        """The most that PyTorch held at once while `run` ran."""


class CudaCounters:
    """The counters of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def total(self) -> int:
        return torch.cuda.mem_get_info(self._device)[1]

    def free(self) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def held(self) -> int:
        return torch.cuda.memory_reserved(self._device)

    def peak(self, run: Callable[[], object]) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_reserved(self._device)


@dataclass(frozen=True, slots=True)
class LargestGraph:
    """The graph that takes most memory. `most`: how many there may be, of all sizes."""

    most: int
    run: Callable[[], object]  # without recording it
    record: Callable[[], object]
    forget: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of a device before it has blocks."""

    total: int
    used: int  # weights, tables, compiled kernels, libraries; and whatever else runs on it
    activations: int  # what steps take beside it, for as long as they run
    graphs: int  # what all graphs take: their pool once, and the driver's part of each

    def left(self, utilization: float) -> int:
        """Bytes beside everything else; negative where it takes more than `utilization`."""
        return int(self.total * utilization) - self.used - self.activations - self.graphs

    def kv_bytes(self, utilization: float) -> int:
        """The bytes that blocks may take, so that no more than `utilization` of the device is ever used.

        Raises:
            ExecutorError: nothing is left.
        """
        left = self.left(utilization)
        if left <= 0:
            raise ExecutorError(
                f"no memory is left for the KV cache: --gpu-memory-utilization allows {utilization:.0%} of "
                f"{self.total / GIB:.2f} GiB, of which {self.used / GIB:.2f} GiB are in use (weights included), the "
                f"largest step takes {self.activations / GIB:.2f} and CUDA graphs {self.graphs / GIB:.2f}: raise it, or "
                "choose a smaller model, --max-num-batched-tokens or --max-num-seqs, or --enforce-eager"
            )
        return left


def measure(
    counters: Counters,
    largest_step: Callable[[], object],
    computed: int,
    graphs: LargestGraph | None = None,
) -> Measured:
    """Run the largest step and, where there are graphs, record the largest one; they share its pool.

    Each is run once before it is measured: kernels are compiled and libraries loaded by then. `computed` is what
    `step_memory.step_bytes` says of steps: the larger of both counts.
    """
    largest_step()
    peak = counters.peak(largest_step)
    free = counters.free()
    activations = peak - counters.held()
    if activations > computed:
        logger.warning(
            "the largest step takes %.2f GiB, more than the %.2f that its configuration comes to: the allocator's "
            "reserve, or a library's buffers",
            activations / GIB,
            computed / GIB,
        )
    recorded = 0
    if graphs is not None:
        graphs.run()
        free, held = counters.free(), counters.held()
        graphs.record()
        taken = free - counters.free()
        pool = counters.held() - held
        recorded = pool + max(0, taken - pool) * graphs.most
        graphs.forget()
        free = counters.free()
    total = counters.total()
    return Measured(total, total - free, max(activations, computed), recorded)
