"""Steps that an executor has and whose results are not processed yet: their requests, and what a failure affects.

Records what each part of a step reads and writes; the scheduler decides what a step computes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec

from octavo_engine.core.block_manager import Block
from octavo_engine.core.outputs import KVOps
from octavo_engine.core.request import Sequence, Status


class Part(msgspec.Struct, eq=False, gc=False):
    """One sequence's part of a step: its tokens first … first + count - 1. A struct: hundreds are made in every step."""

    seq: Sequence
    first: int
    count: int
    draws: bool
    epoch: int  # the sequence's when the step was scheduled
    written: list[Block]  # blocks that hold these tokens
    shared: frozenset[Block] = frozenset()  # blocks with contents that it got; an earlier step may still write them

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def discarded(self) -> bool:
        """True if its results are discarded: the sequence has finished, or starts again."""
        return self.seq.status is Status.FINISHED or self.seq.epoch != self.epoch


@dataclass(slots=True, eq=False)
class StepInFlight:
    """A step between `schedule` and `update`."""

    parts: list[Part]
    finished_ids: tuple[str, ...]  # whose state the executor drops with it
    kv_ops: KVOps


def affected_by(
    failed: Collection[str], steps: Iterable[StepInFlight], invalid_blocks: Iterable[Block]
) -> tuple[dict[Sequence, bool], set[Block]]:
    """Everything transitively affected by the requests that failed in the first of `steps`: sequences and blocks.

    The sequences are the failed ones (True), and each that shares an invalid block (False). Blocks are invalid if
    they were before, or if an affected sequence should have written them.
    """
    affected: dict[Sequence, bool] = {}
    invalid = set(invalid_blocks)
    for number, step in enumerate(steps):
        for part in step.parts:
            seq = part.seq
            if seq.epoch != part.epoch:
                continue
            itself = number == 0 and seq.request_id in failed
            if itself or seq in affected or not invalid.isdisjoint(part.shared):
                affected.setdefault(seq, itself)
                invalid.update(part.written)
    return affected, invalid
