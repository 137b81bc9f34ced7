"""The pulse: a thread of each rank that meets those of all others once a second, whatever the ranks are doing.

What is exchanged there: that each rank is alive, how many parts of steps it has computed, whether it has failed in a
step, and whether it leaves. A rank that can't be met ends this process at once. Owns the thread and the process group
that it meets over; what a part or a failure is, is the caller's.
"""

from __future__ import annotations

import os
import threading

import torch
import torch.distributed as dist

from octavo_engine.messages import LOST_TOUCH

PULSE_SECONDS = 1.0
PATIENCE = 5  # pulses, until a failed rank concludes that the others have not failed
NOWHERE = -1
HEADER = 4  # numbers of a pulse before the counts of parts, one a rank


class Pulse:
    """The thread of one rank, started at once. All ranks make one, over a `group` of their own."""

    def __init__(self, rank: int, world_size: int, group: dist.ProcessGroup | None) -> None:
        self.beats = memoryview(bytearray(8)).cast("Q")  # parts of steps that this rank has computed
        self.num_met = 0
        self._rank = rank
        self._group = group
        self._counts = [0] * world_size  # of all ranks' parts, as of the last pulse
        self._engine_beats: memoryview | None = None
        self._leaving = threading.Event()
        self._failure = NOWHERE
        self._verdict = threading.Semaphore(0)
        self._alike = False
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    def count_others_into(self, beats: memoryview) -> None:
        """Count `beats[0]` up at each pulse before which another rank has computed a part."""
        self._engine_beats = beats

    def all_failed_alike(self, where: int) -> bool:
        """Compare failures: True if all ranks have failed at `where`, a number, and therefore are still in step.

        Does not return if another rank is gone, for then this process ends too.
        """
        self._failure = where
        self._verdict.acquire()
        return self._alike

    def leave(self) -> None:
        """End the thread, and those of the other ranks, which leave too."""
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        waited = 0
        while True:
            leaving, where = self._leaving.wait(PULSE_SECONDS), self._failure
            counts = [0] * len(self._counts)
            counts[self._rank] = self.beats[0]
            pulse = torch.tensor([leaving, where == NOWHERE, where, -where, *counts], dtype=torch.int64)
            try:
                dist.all_reduce(pulse, op=dist.ReduceOp.MAX, group=self._group)
            except RuntimeError:
                os._exit(LOST_TOUCH)  # silently: the process that started the ranks reports which ended first
            some_leave, some_are_well, highest, lowest, *counts = pulse.tolist()
            self._note(counts)
            if some_leave:
                self._verdict.release()  # a rank that waits for one gets none
                return
            if where == NOWHERE:
                continue
            waited += 1
            if not some_are_well or waited == PATIENCE:
                self._alike = not some_are_well and highest == -lowest
                self._failure, waited = NOWHERE, 0
                self._verdict.release()

    def _note(self, counts: list[int]) -> None:
        moved = any(now != before for now, before in zip(counts, self._counts, strict=True))
        self._counts = counts
        self.num_met += 1
        if moved and self._engine_beats is not None:
            self._engine_beats[0] += 1
