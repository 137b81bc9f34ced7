"""Waiting sequences, in the order in which they will run. Independent of blocks and budgets."""

from __future__ import annotations

import heapq

from octavo_engine.core.request import Sequence, Status


class WaitingQueue:
    """A heap by `Sequence.order`. One that finishes while it waits is skipped later, not searched for."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int, int], Sequence]] = []
        self._parked: list[tuple[tuple[int, int, int], Sequence]] = []  # that `first` passes over
        self._num_parked_online = 0
        self._finished = 0  # entries that only wait to be skipped
        self.num_background = 0

    def __len__(self) -> int:
        return len(self._heap) + len(self._parked) - self._finished

    def push(self, seq: Sequence) -> None:
        """Add a sequence at its place in the order; a preempted one precedes all that arrived later."""
        heapq.heappush(self._heap, (seq.order, seq))
        self.num_background += seq.in_background

    @property
    def num_online(self) -> int:
        """The number of those that are not in the background."""
        return len(self) - self.num_background

    @property
    def num_next(self) -> int:
        """The number of those that are not in the background, nor passed over."""
        return self.num_online - self._num_parked_online

    def first(self) -> Sequence | None:
        """The next sequence; None if there is none."""
        while self._heap and self._heap[0][1].status is Status.FINISHED:
            heapq.heappop(self._heap)
            self._finished -= 1
        return self._heap[0][1] if self._heap else None

    def pop(self) -> None:
        """Remove the sequence that `first` has just returned."""
        _, seq = heapq.heappop(self._heap)
        self.num_background -= seq.in_background

    def park(self) -> None:
        """Pass over the sequence that `first` has just returned, until `unpark`."""
        entry = heapq.heappop(self._heap)
        self._parked.append(entry)
        self._num_parked_online += not entry[1].in_background

    def unpark(self) -> None:
        """Look at all sequences again."""
        for entry in self._parked:
            heapq.heappush(self._heap, entry)
        self._parked.clear()
        self._num_parked_online = 0

    def note_finished(self, seq: Sequence) -> None:
        """Record that `seq`, which waited, is now FINISHED."""
        self._finished += 1
        if not seq.in_background and any(entry[1] is seq for entry in self._parked):
            self._num_parked_online -= 1
        self.num_background -= seq.in_background
        if self._finished > 64 and self._finished > len(self):
            self._heap = [entry for entry in self._heap if entry[1].status is not Status.FINISHED]
            self._parked = [entry for entry in self._parked if entry[1].status is not Status.FINISHED]
            heapq.heapify(self._heap)
            self._finished = 0
