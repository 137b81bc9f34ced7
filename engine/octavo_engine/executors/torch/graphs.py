"""Steps of nothing but decodes, captured once for each size and then replayed: a step costs the host one launch.

Owns the choice of sizes and the buffers whose addresses a graph keeps; what is computed is the caller's. All graphs are
captured at load, the largest first, so that no step waits for one and none has to make way for another. Lengths are no
part of a graph: it holds for all of up to MOST_TOKENS tokens together. How a GPU records is `Recorder`'s: tests replay
the function itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from octavo_engine.errors import OutOfMemoryError
from octavo_engine.executors.torch.adapted_rows import most_tiles
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.input_batch import StepBatch, StepLayout
from octavo_engine.kernels.operations import StepRows

logger = logging.getLogger(__name__)

# Of all requests of a step together. Beyond it reading the keys takes so long that launches hide behind it.
MOST_TOKENS = 1 << 19


@dataclass(frozen=True, slots=True)
class GraphKey:
    """The steps that a graph serves. `draws`: all of its requests draw a token, and nothing more is asked.

    `adapted`: some of them use adapters; one that is captured without them has no launches for them.
    """

    num_requests: int
    draws: bool
    adapted: bool = False


@dataclass(frozen=True, slots=True)
class DecodeOutputs:
    """The results of a step of decodes, at addresses that a graph keeps until its next replay."""

    rows: StepRows
    drawing: Tensor  # [num_requests] int32: the numbers of the requests that draw, then padding
    hidden: Tensor  # [num_requests, hidden_size], normed
    seq_lens: Tensor  # [num_requests] int32
    drawn: Tensor | None  # [num_requests] int64


class Outcome(IntEnum):
    """The result of a capture; ranks act on the worst of all theirs."""

    CAPTURED = 0
    NO_MEMORY = 1  # this size runs without
    FAILED = 2  # all run without


NOTHING = StepBatch([], [], [], [], [], {})
Compute = Callable[[GraphKey, StepLayout, Tensor], DecodeOutputs]


@dataclass(frozen=True, slots=True)
class AdapterTiles:
    """The tiles of steps with adapters. `rows`: `Operations.adapter_tile`."""

    num_slots: int
    rows: Callable[[int], int]


class Recorder(Protocol):
    """Records what a function launches."""

    def record(self, run: Callable[[], DecodeOutputs]) -> tuple[DecodeOutputs, Callable[[], None]]:
        """(the tensors that replays write, a replay). Whether `run` computes anything meanwhile is left open.

        Raises:
            RuntimeError: it can't be recorded, or there is no memory for it.
        """

    def forget(self) -> None:
        """Drop all that was recorded."""


class CudaRecorder:
    """CUDA graphs in one pool of memory: no two of them run at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def forget(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()  # PyTorch takes none up again whose graphs are gone

    def record(self, run: Callable[[], DecodeOutputs]) -> tuple[DecodeOutputs, Callable[[], None]]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = run()
        except BaseException:
            # A capture that ends badly leaves its stream current and the allocator in its pool.
            torch.cuda.set_stream(stream)
            with suppress(RuntimeError):  # or it had left it
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)  # noqa: SLF001
            raise
        return outputs, graph.replay


@dataclass(slots=True)
class _Graph:
    buffer: Tensor  # the step's numbers
    outputs: DecodeOutputs
    replay: Callable[[], None]


class DecodeGraphs:
    """The graphs of one model. `num_groups`: of the KV layout; `adapters`: None where there are none."""

    def __init__(
        self,
        compute: Compute,
        recorder: Recorder,
        *,
        max_requests: int,
        num_groups: int,
        device: torch.device,
        faults: FaultWatch,
        worst: Callable[[int], int] = lambda outcome: outcome,
        adapters: AdapterTiles | None = None,
    ) -> None:
        # The largest first: the others then fit into what it leaves in the pool.
        sizes = reversed(ladder(max_requests))
        kinds = (False,) if adapters is None else (True, False)
        self.keys = tuple(
            GraphKey(size, draws, adapted) for size in sizes for draws in (True, False) for adapted in kinds
        )
        self._adapters = adapters
        self._compute = compute
        self._recorder = recorder
        self._num_groups = num_groups
        self._device = device
        self._faults = faults
        self._worst = worst
        self._graphs: dict[GraphKey, _Graph] = {}

    def key(self, batch: StepBatch, *, draws: bool) -> GraphKey | None:
        """The graph that serves a step: the smallest of those that were captured; None if it must run without."""
        n = batch.num_requests
        if not n or batch.num_decodes < n or sum(batch.seq_lens) > MOST_TOKENS:
            return None
        kind = draws, batch.adapted is not None
        fitting = (key for key in self._graphs if (key.draws, key.adapted) == kind and key.num_requests >= n)
        return min(fitting, key=lambda key: key.num_requests, default=None)

    def layout(self, key: GraphKey) -> StepLayout:
        """The layout of its buffer: as many runs as each request has tables of blocks, each of one block on average."""
        n, runs = key.num_requests, key.num_requests * self._num_groups
        if not key.adapted:
            return StepLayout(n, runs, runs, n)
        assert self._adapters is not None
        rows = self._adapters.rows(n)
        return StepLayout(n, runs, runs, n, n, most_tiles(n, self._adapters.num_slots, rows), rows)

    def fits(self, key: GraphKey, batch: StepBatch) -> bool:
        """True if the step's news have room in the graph's buffer; else they are taken in before it."""
        need, room = StepLayout.of(batch), self.layout(key)
        return need.num_runs <= room.num_runs and need.num_values <= room.num_values

    def run(self, key: GraphKey, batch: StepBatch) -> DecodeOutputs:
        """Compute a step whose news fit. The outputs hold until the next step."""
        graph = self._graphs[key]
        numbers = self._numbers(key, batch)
        if self._device.type == "cuda":
            numbers = numbers.pin_memory()
        graph.buffer.copy_(numbers, non_blocking=True)
        graph.replay()
        return graph.outputs

    def capture(self, keys: Sequence[GraphKey] | None = None) -> None:
        """Capture all sizes, or those of `keys`, over padding alone. Ranks do so in the same order.

        One that there is no memory for runs without from then on, and after any other failure all do.

        Raises:
            DeviceLostError: the device does not survive it.
        """
        for key in self.keys if keys is None else keys:
            if self._capture(key) == Outcome.FAILED:
                self.forget()
                return

    def run_largest(self) -> None:
        """Compute what the largest graph would, over padding alone."""
        key = self.keys[0]
        self._compute(key, self.layout(key), self._numbers(key, NOTHING).to(self._device))

    def forget(self) -> None:
        """Drop all graphs and their memory."""
        self._graphs.clear()
        self._recorder.forget()

    def _capture(self, key: GraphKey) -> Outcome:
        layout = self.layout(key)
        buffer = self._numbers(key, NOTHING).to(self._device)

        def compute() -> DecodeOutputs:
            return self._compute(key, layout, buffer)

        outcome, recorded = Outcome.CAPTURED, None
        try:
            with self._faults.watching():
                compute()  # libraries choose their ways, and load what they need
                recorded = self._recorder.record(compute)
        except (OutOfMemoryError, RuntimeError) as error:
            short = isinstance(error, OutOfMemoryError)
            outcome = Outcome.NO_MEMORY if short else Outcome.FAILED
            logger.warning(
                "a CUDA graph of %d decodes can't be captured: %s without it: %s",
                key.num_requests,
                "they run" if short else "all decodes run, more slowly,",
                error,
            )
        outcome = Outcome(self._worst(outcome))
        if outcome == Outcome.CAPTURED and recorded is not None:
            self._graphs[key] = _Graph(buffer, *recorded)
        return outcome

    def _numbers(self, key: GraphKey, batch: StepBatch) -> Tensor:
        return torch.frombuffer(self.layout(key).pack(batch), dtype=torch.int32)

    @property
    def num_recorded(self) -> int:
        return len(self._graphs)


def ladder(max_requests: int) -> tuple[int, ...]:
    """Powers of two and what lies halfway between them, up to `max_requests`: a step is padded by a third at most."""
    sizes = {max_requests}
    size = 1
    while size < max_requests:
        sizes |= {size, min(size + size // 2, max_requests)}
        size *= 2
    return tuple(sorted(sizes))
