"""Steps that were handed out and are not booked yet: who is in them, and what depends on whom if one fails.

Knows what each part of a step reads and writes; nothing of why it was scheduled, or of what comes of it.
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
    epoch: int  # the sequence's own, then: if it has another one now, this part's results are void
    written: list[Block]  # blocks that hold these tokens
    shared: frozenset[Block] = (
        frozenset()
    )  # blocks that it was just given with contents, which may still be on their way

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def void(self) -> bool:
        """Nobody waits for its results any more."""
        return self.seq.status is Status.FINISHED or self.seq.epoch != self.epoch


@dataclass(slots=True, eq=False)
class Flight:
    """A step in flight."""

    parts: list[Part]
    finished_ids: tuple[str, ...]  # whom the executor is told of with it
    kv_ops: KVOps


def taint(
    flights: Iterable[Flight], failed: Collection[str], doubtful: Iterable[Block]
) -> tuple[dict[Sequence, bool], set[Block]]:
    """What can't be trusted once requests of the first flight have failed: sequences (True: itself), and blocks.

    The failed ones, whoever was given a `doubtful` block or one that a failed one should have filled, whoever was given
    a block of those …, in all steps in flight.
    """
    tainted: dict[Sequence, bool] = {}
    spoilt = set(doubtful)
    for number, flight in enumerate(flights):
        for part in flight.parts:
            seq = part.seq
            if seq.epoch != part.epoch:
                continue
            itself = number == 0 and seq.request_id in failed
            if itself or seq in tainted or not spoilt.isdisjoint(part.shared):
                tainted.setdefault(seq, itself)
                spoilt.update(part.written)
    return tainted, spoilt
