"""The turns of adapters: a bounded number of different ones is in a step.

Requests without an adapter never wait for one. A request whose adapter has no place is passed over; those with a place
that were waiting when that happened still start, later ones wait behind it. So adapters share batches, and none waits
longer than for what had arrived before it was passed over. What runs in the background gives its place up.
"""

from __future__ import annotations

from collections.abc import Iterable

from octavo_engine.core.request import Sequence, Status
from octavo_engine.core.waiting_queue import WaitingQueue


class AdapterTurns:
    """The adapters of the running sequences, `most` at a time, and the sequence whose turn is next."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: set[int] = set()
        self._online: set[int] = set()  # of those that are not in the background
        self._next: Sequence | None = None  # the first in order that was passed over for want of a place
        self._before = 0  # arrivals up to this one may precede it

    def begin(self, running: Iterable[Sequence], waiting: WaitingQueue) -> None:
        """Note what runs as a step begins: those that were passed over are looked at again where that has changed."""
        online = {seq.adapter_id for seq in running if seq.adapter_id and not seq.in_background}
        adapters = online | {seq.adapter_id for seq in running if seq.adapter_id}
        waits = self._next is not None and self._next.status in {Status.WAITING, Status.PREEMPTED}
        if adapters != self._running or online != self._online or (self._next is not None and not waits):
            waiting.unpark()
        self._running, self._online = adapters, online
        if not waits:
            self._next = None

    def admits(self, seq: Sequence, arrivals: int) -> bool:
        """True if `seq`, the first one waiting, may start; `arrivals` is the number of requests so far."""
        if not seq.adapter_id:
            return True
        has_place = seq.adapter_id in self._running or len(self._running) < self._most
        behind = self._next is not None and seq is not self._next and seq.order > self._next.order
        if has_place and not (behind and seq.order[-1] > self._before):
            return True
        if not has_place and (self._next is None or seq.order < self._next.order):
            self._next, self._before = seq, arrivals
        return False

    def in_the_way_of(self, seq: Sequence, running: Iterable[Sequence]) -> list[Sequence]:
        """The sequences in the background without which `seq`, which was not admitted, has a place, the last one first.

        They are all those of one adapter, the one that has the fewest. Empty: the background doesn't keep it from a place.
        """
        has_place = seq.adapter_id in self._running or len(self._running) < self._most
        if has_place or seq.in_background or len(self._online) >= self._most:
            return []
        rows: dict[int, list[Sequence]] = {}
        for row in running:
            if row.adapter_id and row.adapter_id not in self._online:
                rows.setdefault(row.adapter_id, []).insert(0, row)
        return min(rows.values(), key=len, default=[])

    def start(self, seq: Sequence) -> None:
        """Note that a sequence runs from now on."""
        if seq.adapter_id:
            self._running.add(seq.adapter_id)
            if not seq.in_background:
                self._online.add(seq.adapter_id)
        if seq is self._next:
            self._next = None
