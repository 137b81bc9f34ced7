"""Jobs of ranks without a model: `rank_pool.RankPool.call` runs one of these in each of them.

A job prepares what its rank needs before the group is made, and yields what runs in the group.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from symmetric_stand_in import StandIn
from torch import Tensor

from octavo_engine.executors.torch import parallel_pulse, parallel_symmetric
from octavo_engine.executors.torch.parallel_commands import CommandRing
from octavo_engine.executors.torch.parallel_group import FOREVER, RankGroup

Job = Callable[[RankGroup], Any]
PULSE_SECONDS = 0.02


@contextmanager
def logged() -> Iterator[list[str]]:
    """The warnings and notices of the ranks' modules meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("octavo_engine.executors.torch")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def commands(sizes: list[int], *, unmapped_by: int | None = None) -> Iterator[Job]:
    """Rank 0 sends messages of those sizes: what each rank has of them, how many went by the group, what was logged.

    Rank `unmapped_by` can't map the ring.
    """

    def run(group: RankGroup) -> Any:
        broadcast = group.broadcast
        by_group: list[int] = []

        def counted(data: bytes | None, source: int = 0) -> bytes:
            got = broadcast(data, source)
            by_group.append(len(got))
            return got

        group.broadcast = counted  # type: ignore[method-assign]
        got = []
        for i, size in enumerate(sizes):
            data = bytes([i % 251 + 1]) * size
            if group.rank == 0:
                group.send_command(data)
            else:
                data = group.receive_command()
            got.append([len(data), zlib.crc32(data)])
        return {"got": got, "by_group": by_group, "logged": lines}

    def open_ring(path: str, num_readers: int, reader: int) -> CommandRing:
        if reader + 1 == unmapped_by:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, num_readers, reader)

    opened = CommandRing.open
    with logged() as lines, mock.patch.object(CommandRing, "open", open_ring):
        yield run


@contextmanager
def parts(num_parts: int) -> Iterator[Job]:
    """While rank 0 waits for a message of the last rank, that computes so many parts, one a pulse: rank 0's beats."""

    def run(group: RankGroup) -> Any:
        beats = memoryview(bytearray(8)).cast("Q")
        group.pulse.count_others_into(beats)
        last = group.config.world_size - 1
        if group.rank != last:
            group.broadcast(None, last)
            return beats[0]
        for part in range(max(3, num_parts)):
            group.pulse.beats[0] += part < num_parts
            met = group.pulse.num_met
            while group.pulse.num_met < met + 3:  # the last one is then noted by all
                time.sleep(PULSE_SECONDS)
        group.broadcast(b"done", last)
        return beats[0]

    with mock.patch.object(parallel_pulse, "PULSE_SECONDS", PULSE_SECONDS):
        yield run


@contextmanager
def sums(
    shapes: list[tuple[list[int], str, int]],
    *,
    multicast: bool = False,
    fault: str = "",
    faulty_rank: int | None = None,
) -> Iterator[Job]:
    """All-reduces over symmetric memory, of (shape, type, offset in a larger tensor): what became of them.

    Rank `faulty_rank` fails at the stage `fault`, or all do.
    """
    order: list[str] = []
    memories: list[StandIn] = []

    class Memory(StandIn):
        def __init__(self, rank: int) -> None:
            super().__init__(fault=fault if faulty_rank in {None, rank} else "", multicast=multicast)
            memories.append(self)

    def run(group: RankGroup) -> Any:
        (memory,) = memories
        tried, by_group, found = list(memory.calls), [], []
        memory.calls.clear()
        all_reduce = dist.all_reduce

        def counted(x: Tensor, **how: Any) -> Any:
            if x.is_floating_point():  # not the pulse
                by_group.append(x.nbytes)
            return all_reduce(x, **how)

        for shape, dtype, offset in shapes:
            parts = [number_of(rank, shape, dtype, offset) for rank in range(group.config.tensor_parallel_size)]
            expected = parts[0]
            for part in parts[1:]:
                expected = expected + part
            with mock.patch.object(dist, "all_reduce", counted):
                total = group.parallel.all_reduce(parts[group.place.tensor_rank])
            close = torch.allclose(total.float(), expected.float(), rtol=2e-2, atol=5e-2)
            found.append(
                [bool(close), bool(total.equal(expected)), zlib.crc32(total.view(torch.uint8).numpy().tobytes())]
            )
        destroy = dist.destroy_process_group

        def destroyed() -> None:
            order.append(f"groups destroyed with {memory.num_held} buffers")
            destroy()

        stack.enter_context(mock.patch.object(dist, "destroy_process_group", destroyed))
        return {
            "found": found,
            "tried": tried,
            "calls": memory.calls,
            "by_group": by_group,
            "held": memory.num_held,
            "waits_for_ever": group._store.timeout == FOREVER,
            "logged": lines,
            "order": order,
        }

    with ExitStack() as stack:
        lines = stack.enter_context(logged())
        stack.enter_context(symmetric_memory(Memory))
        stack.enter_context(mock.patch.object(parallel_symmetric, "MEETING", timedelta(seconds=1)))
        yield run


@contextmanager
def symmetric_memory(memory_of: Callable[[int], StandIn]) -> Iterator[None]:
    """Groups have the memory that `memory_of` makes for their rank."""
    init = RankGroup.__init__

    def inited(self: RankGroup, config: Any, rank: int, promised: Any) -> None:
        init(self, config, rank, promised, memory_of(rank))

    with mock.patch.object(RankGroup, "__init__", inited):
        yield


def number_of(rank: int, shape: list[int], dtype: str, offset: int) -> Tensor:
    """The tensor that a rank puts into a sum; not aligned where `offset` says so."""
    generator = torch.Generator().manual_seed(rank)
    numbers = torch.randn(offset + math.prod(shape), generator=generator).to(getattr(torch, dtype))
    return numbers[offset:].view(shape)
