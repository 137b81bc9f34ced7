"""The number of times that requests with penalties have used each token, kept on the device from draw to draw.

Owns which request has which slot of the table. The table is no more than a cache of what the device's tokens say: a
request that is new to its slot, or whose last draws are void, is counted afresh. Kernels count; a token is counted by
the draw after its own, so that the host need not know it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.executors.torch.device import sent
from octavo_engine.executors.torch.input_batch import RequestState
from octavo_engine.kernels.operations import TokenCounts

FEWEST = 8  # slots of a table


def penalized(state: RequestState) -> bool:
    s = state.sampling
    return s.repetition_penalty != 1.0 or s.frequency_penalty != 0.0 or s.presence_penalty != 0.0


class PenaltyCounts:
    """The table, and its slots' owners: as many as requests with penalties have had a row at a time."""

    def __init__(self, max_requests: int, device: torch.device) -> None:
        self._max_requests = max_requests
        self._device = device
        self._owners: list[RequestState | None] = []
        self._table: Tensor | None = None

    def take(self, states: list[RequestState], lengths: list[int], vocab_size: int) -> TokenCounts:
        """The counts that a draw of `states` at these lengths reads and completes. Until `completed`, nothing of it
        holds.
        """
        self._place([s for s in states if penalized(s)], vocab_size)
        assert self._table is not None
        slots = [s.count_slot if penalized(s) else -1 for s in states]
        # Tokens from the length on are void: an earlier step is drawn again.
        counted = [s.num_counted if s.num_counted <= n else 0 for s, n in zip(states, lengths, strict=True)]
        for state in states:
            state.num_counted = 0
        numbers = sent([slots, counted], torch.int32, self._device)
        return TokenCounts(self._table, *numbers.unbind())

    @staticmethod
    def completed(states: list[RequestState], lengths: list[int]) -> None:
        """The draw that `take` was for is launched."""
        for state, n in zip(states, lengths, strict=True):
            state.num_counted = n

    def _place(self, states: list[RequestState], vocab_size: int) -> None:
        new = [s for s in states if not self._has(s)]
        if not new:
            return
        free = [slot for slot, owner in enumerate(self._owners) if owner is None or owner.row is None]
        if len(free) < len(new):
            size = FEWEST
            while size < len(self._owners) - len(free) + len(new):
                size *= 2
            size = min(size, self._max_requests)
            self._owners = [None] * size
            self._table = None  # first, so that there is never more than one
            self._table = torch.empty(size, vocab_size, dtype=torch.int32, device=self._device)
            new, free = states, list(range(size))
        for state, slot in zip(new, free, strict=False):
            self._owners[slot] = state
            state.count_slot, state.num_counted = slot, 0

    def _has(self, state: RequestState) -> bool:
        slot = state.count_slot
        return 0 <= slot < len(self._owners) and self._owners[slot] is state
