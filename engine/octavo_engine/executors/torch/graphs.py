"""Steps of nothing but decodes, captured once for each size and then replayed: a step costs the host one launch.

Owns the choice of sizes and the buffers whose addresses a graph keeps; what is computed is the caller's. Graphs are
captured when a size is met for the second time, so that a start does not wait for them; the first time runs the same
function over the same buffers, which compiles what it launches. How a card records is `Recorder`'s: tests replay the
function itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from octavo_engine.executors.torch.faults import is_out_of_memory
from octavo_engine.executors.torch.input_batch import StepBatch, StepLayout
from octavo_engine.kernels.operations import StepRows

logger = logging.getLogger(__name__)

SHORTEST = 1024  # tokens: graphs are for requests of up to this length, four times, sixteen times … as many
# Requests × length: beyond it reading the keys takes so long that launches hide behind it, and attention's scratch,
# which a graph sizes by its bounds, would be large.
MOST_TOKENS = 1 << 22
MOST_GRAPHS = 64  # memory is reserved for so many


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph is captured for. `draws`: all of its requests draw a token, and nothing more is asked."""

    num_requests: int
    max_seq_len: int
    draws: bool


@dataclass(frozen=True, slots=True)
class DecodeOutputs:
    """What a step of decodes leaves, at addresses that a graph keeps until its next replay."""

    rows: StepRows
    drawing: Tensor  # [num_requests] int32: the numbers of the requests that draw, then padding
    hidden: Tensor  # [num_requests, hidden_size], normed
    seq_lens: Tensor  # [num_requests] int32
    drawn: Tensor | None  # [num_requests] int64


class Outcome(IntEnum):
    """Of a capture; the worst of all ranks' counts."""

    CAPTURED = 0
    NO_MEMORY = 1  # this size runs without
    FAILED = 2  # all run without


Compute = Callable[[GraphKey, StepLayout, Tensor], DecodeOutputs]


class Recorder(Protocol):
    """Records what a function launches."""

    def record(self, run: Callable[[], DecodeOutputs]) -> tuple[DecodeOutputs, Callable[[], None]]:
        """(the tensors that replays write, a replay). Whether `run` computes anything meanwhile is left open.

        Raises:
            RuntimeError: it can't be recorded, or there is no memory for it.
        """

    def forget(self) -> None:
        """All that was recorded is gone."""


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
    outputs: DecodeOutputs | None = None
    replay: Callable[[], None] | None = None
    eager: bool = False  # it could not be recorded


class DecodeGraphs:
    """The graphs of one model. `max_len`: the longest sequence; `num_groups`: of the KV layout."""

    def __init__(
        self,
        compute: Compute,
        recorder: Recorder,
        *,
        max_requests: int,
        max_len: int,
        num_groups: int,
        device: torch.device,
        worst: Callable[[int], int] = lambda outcome: outcome,
    ) -> None:
        self.ladder = ladder(max_requests)
        self._compute = compute
        self._recorder = recorder
        self._max_len = max_len
        self._num_groups = num_groups
        self._device = device
        self._worst = worst
        self._graphs: dict[GraphKey, _Graph] = {}
        self._off = False

    def key(self, batch: StepBatch, *, draws: bool) -> GraphKey | None:
        """The graph that serves a step; None if it must run without."""
        n = batch.num_requests
        if self._off or not n or batch.num_decodes < n:
            return None
        size = next((size for size in self.ladder if size >= n), None)
        length = SHORTEST
        while length < max(batch.seq_lens):
            length *= 4
        length = min(length, self._max_len)
        return None if size is None or size * length > MOST_TOKENS else GraphKey(size, length, draws)

    def layout(self, key: GraphKey) -> StepLayout:
        """Of its buffer: as many runs as each request has tables of pages, each of one page on average."""
        runs = key.num_requests * self._num_groups
        return StepLayout(key.num_requests, runs, runs, key.num_requests)

    def fits(self, key: GraphKey, batch: StepBatch) -> bool:
        """Whether the step's news have room in the graph's buffer; else they are taken in before it."""
        need, room = StepLayout.of(batch), self.layout(key)
        return need.num_runs <= room.num_runs and need.num_values <= room.num_values

    def run(self, key: GraphKey, batch: StepBatch) -> DecodeOutputs:
        """Compute a step whose news fit. The outputs hold until the next step."""
        layout = self.layout(key)
        numbers = torch.frombuffer(layout.pack(batch), dtype=torch.int32)
        graph = self._graphs.get(key)
        met = graph is not None
        if graph is None:
            self._graphs[key] = graph = _Graph(torch.empty_like(numbers, device=self._device))
        if self._device.type == "cuda":
            numbers = numbers.pin_memory()
        graph.buffer.copy_(numbers, non_blocking=True)
        if met and graph.replay is None and not graph.eager:
            self._record(key, layout, graph)
        if graph.replay is None:
            return self._compute(key, layout, graph.buffer)
        assert graph.outputs is not None
        graph.replay()
        return graph.outputs

    def run_largest(self) -> None:
        """Run the graph that takes most memory, over padding alone: what is met for the second time is recorded."""
        size, length = self.ladder[-1], self._max_len
        while size * length > MOST_TOKENS:
            length //= 4
        self.run(GraphKey(size, length, draws=True), StepBatch([], [], [], [], [], {}))

    def forget(self) -> None:
        """Drop all graphs and their memory."""
        for graph in self._graphs.values():  # at once, whatever refers to it yet
            graph.outputs = graph.replay = None
        self._graphs.clear()
        self._recorder.forget()

    @property
    def most(self) -> int:
        """How many graphs there may be."""
        lengths = 1 + sum(1 for k in range(16) if SHORTEST * 4**k < self._max_len)
        return min(MOST_GRAPHS, 2 * len(self.ladder) * lengths)

    def _record(self, key: GraphKey, layout: StepLayout, graph: _Graph) -> None:
        if self.num_recorded >= self.most:
            graph.eager = True
            return
        outcome = Outcome.CAPTURED
        try:
            graph.outputs, graph.replay = self._recorder.record(lambda: self._compute(key, layout, graph.buffer))
        except RuntimeError as error:  # a lost device shows again at the next operation
            short = is_out_of_memory(error)
            outcome = Outcome.NO_MEMORY if short else Outcome.FAILED
            logger.warning(
                "a CUDA graph of %d decodes can't be captured: %s without it: %s",
                key.num_requests,
                "they run" if short else "all decodes run, more slowly,",
                error,
            )
        outcome = Outcome(self._worst(outcome))
        if outcome != Outcome.CAPTURED:
            graph.outputs, graph.replay, graph.eager = None, None, True
        if outcome == Outcome.FAILED:
            self._off = True
            self.forget()

    @property
    def num_recorded(self) -> int:
        return sum(graph.replay is not None for graph in self._graphs.values())


def ladder(max_requests: int) -> tuple[int, ...]:
    """Powers of two and what lies halfway between them, up to `max_requests`: a step is padded by a third at most."""
    sizes = {max_requests}
    size = 1
    while size < max_requests:
        sizes |= {size, min(size + size // 2, max_requests)}
        size *= 2
    return tuple(sorted(sizes))
