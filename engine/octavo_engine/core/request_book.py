"""The requests in the core: where each stands, what of it is in flight, and how each of them ends.

Owns their lives, not their turns: which of them run in a step is the scheduler's decision.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from octavo_engine.core.block_manager import Block, BlockManager
from octavo_engine.core.in_flight import Flight, taint
from octavo_engine.core.outputs import KVOps, NewRequest
from octavo_engine.core.request import Sequence, Status
from octavo_engine.core.waiting_queue import WaitingQueue

if TYPE_CHECKING:
    from octavo_engine.messages import EngineOutput


class RequestBook:
    """Accepted requests and the steps that are in flight for them."""

    def __init__(self, blocks: BlockManager) -> None:
        self.blocks = blocks
        self._sequences: dict[str, Sequence] = {}  # accepted and not finished
        self._running: list[Sequence] = []  # in order
        self._waiting = WaitingQueue()
        self._outputs: list[EngineOutput] = []  # what ended outside of a step's results
        self._left: list[str] = []  # finished ids that the executor still knows
        self._flights: deque[Flight] = deque()  # the steps in flight, the older one first
        self._gaps = False  # some of `_running` no longer run
        self._aborted: list[Sequence] = []  # finished while in flight; their blocks are freed with the step
        self._doubtful: set[Block] = set()  # that the older step should have swapped in, if it has failed as a whole

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._outputs)

    @property
    def in_flight(self) -> int:
        """Steps that were scheduled and whose results have not come."""
        return len(self._flights)

    def knows(self, request_id: str) -> bool:
        """Whether it was accepted and has not ended."""
        return request_id in self._sequences

    def abort(self, request_id: str) -> None:
        """End a request now, also in the middle of a step; an unknown id is ignored."""
        seq = self._sequences.get(request_id)
        if seq is not None:
            self._finish(seq)
            self._outputs.append(seq.output([], "abort"))

    def take_outputs(self) -> list[EngineOutput]:
        """What ended outside of a step's results since the last call: refused, aborted, impossible."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def abandon(self) -> set[str]:
        """Give up all steps in flight: whoever is in them is recomputed. Their ids."""
        flights, self._flights = self._flights, deque()
        abandoned = {part.seq.request_id: part.seq for flight in flights for part in flight.parts if not part.void}
        self.blocks.forget(block for flight in flights for part in flight.parts for block in part.written)
        for flight in flights:
            self.blocks.forget(self._forget_swaps(flight.kv_ops))
        for seq in abandoned.values():
            self._start_afresh(seq)
        self._left.extend(request_id for flight in flights for request_id in flight.finished_ids)
        self._settle()
        return set(abandoned)

    def _introduce(self, seq: Sequence, num_computed: int) -> NewRequest:
        seq.known = True
        return NewRequest(
            seq.request_id,
            seq.token_ids[: seq.num_prompt_tokens],
            seq.sampling,
            tuple(list(table) for table in seq.tables),
            num_computed,
            seq.adapter_slot,
            seq.token_ids[seq.num_prompt_tokens :],
        )

    def _preempt(self, seq: Sequence) -> None:
        """Give up its blocks; it waits to be recomputed, or swapped in if it was swapped out.

        A token that a step in flight draws for it still counts.
        """
        self.blocks.free(seq)
        seq.status = Status.PREEMPTED
        if seq.swapped is None:
            self._restart_prompt(seq)
        self._waiting.push(seq)

    def _start_afresh(self, seq: Sequence) -> None:
        """Its blocks or the executor's state of it are not what they should be: recompute it as if it were new."""
        if seq.status is Status.RUNNING:
            self._preempt(seq)
            self._gaps = True
        self._forget_swapped(seq)
        seq.disown()
        self._left.append(seq.request_id)
        seq.known = False

    def _finish(self, seq: Sequence) -> None:
        """End a sequence wherever it stands, also in a step in flight, which still writes its blocks."""
        if seq.status is not Status.RUNNING:
            self._end(seq)
            self._waiting.note_finished()
            return
        self._running.remove(seq)
        if any(part.seq is seq for flight in self._flights for part in flight.parts):
            self._aborted.append(seq)
            self._end(seq, free=False)
        else:
            self._end(seq)

    def _end(self, seq: Sequence, *, free: bool = True) -> None:
        seq.status = Status.FINISHED
        self._gaps = True
        del self._sequences[seq.request_id]
        if seq.known:
            self._left.append(seq.request_id)
        self.blocks.drop_swapped(seq)
        if free:
            self.blocks.free(seq)

    def _forget_swaps(self, kv_ops: KVOps) -> set[Block]:
        """Trust nothing that a failed step should have moved out; the blocks that it should have filled are returned."""
        moved = {(group, block) for group, _, block in kv_ops.swap_out}
        for seq in self._sequences.values() if moved else ():
            if seq.swapped and any((g, block) in moved for g, held in enumerate(seq.swapped.blocks) for block in held):
                self._forget_swapped(seq)
        return {(group, block) for group, _, block in kv_ops.swap_in}

    def _forget_swapped(self, seq: Sequence) -> None:
        if seq.swapped is not None:
            self.blocks.drop_swapped(seq)
            self._restart_prompt(seq)

    def _restart_prompt(self, seq: Sequence) -> None:
        if seq.wants_prompt_logprobs:
            seq.num_scored = 0
            seq.disown()  # else a step in flight would add to them

    def _fail(self, errors: dict[str, str]) -> list[EngineOutput]:
        """End the requests that failed in the older step; whoever depends on them is recomputed."""
        outputs = []
        tainted, spoilt = taint(self._flights, errors, self._doubtful)
        self._doubtful = set()
        self.blocks.forget(spoilt)
        for seq, itself in tainted.items():
            if seq.status is Status.FINISHED:
                continue  # aborted meanwhile
            if itself:
                self._conclude(seq)
                outputs.append(seq.output([], "error", error=errors[seq.request_id]))
            else:
                self._start_afresh(seq)
        return outputs

    def _conclude(self, seq: Sequence) -> None:
        """End a sequence that a step was for, whether it still runs or waits by now."""
        waited = seq.status is not Status.RUNNING
        self._end(seq)
        if waited:
            self._waiting.note_finished()

    def _settle(self) -> None:
        """After a step: blocks of those that were aborted within one, and the list of those that run."""
        if self._aborted:
            held = {part.seq for flight in self._flights for part in flight.parts}
            for seq in self._aborted:
                if seq not in held:
                    self.blocks.free(seq)
            self._aborted = [seq for seq in self._aborted if seq in held]
        if self._gaps:
            self._gaps = False
            self._running = [seq for seq in self._running if seq.status is Status.RUNNING]
