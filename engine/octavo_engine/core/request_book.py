"""The requests in the core: the state of each, the steps in flight for them, and how each of them ends.

Owns their lives, from acceptance to the last output. Which of them run in a step is the scheduler's decision.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from octavo_engine.core.block_manager import Block, BlockManager
from octavo_engine.core.outputs import KVOps, NewRequest
from octavo_engine.core.request import Sequence, Status
from octavo_engine.core.steps_in_flight import StepInFlight, affected_by
from octavo_engine.core.waiting_queue import WaitingQueue
from octavo_engine.messages import EngineOutput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class RequestBook:
    """Accepted requests and the steps in flight for them. Only the scheduler changes `running` and `waiting`."""

    def __init__(self, block_manager: BlockManager) -> None:
        self._block_manager = block_manager
        self._sequences: dict[str, Sequence] = {}  # accepted and not finished
        self.adapters: Counter[int] = Counter()  # their number by adapter
        self.running: list[Sequence] = []  # in order
        self.waiting = WaitingQueue()
        self.steps: deque[StepInFlight] = deque()  # in flight, the older one first
        self._outputs: list[EngineOutput] = []  # that are no step's results
        self._finished_ids: list[str] = []  # whose state the executor has yet to drop
        self._running_is_stale = False  # some of `running` no longer run
        self._aborted: list[Sequence] = []  # finished while in flight; their blocks are freed with the step
        self._invalid_blocks: set[Block] = set()  # that the older step should have swapped in, if all of it failed

    def __contains__(self, request_id: str) -> bool:
        """True if the request was accepted and has not ended."""
        return request_id in self._sequences

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._outputs)

    @property
    def num_in_flight(self) -> int:
        """The number of steps that were scheduled and whose results have not arrived."""
        return len(self.steps)

    def forced(self, request_ids: Collection[str]) -> dict[str, int]:
        """The token that must come next in each of these requests whose reasoning has used up its budget."""
        known = ((request_id, self._sequences.get(request_id)) for request_id in request_ids)
        watched = ((request_id, seq.thinking) for request_id, seq in known if seq is not None)
        return {name: token for name, at in watched if at is not None and (token := at.forced) is not None}

    def accept(self, seq: Sequence) -> None:
        """Add a sequence, which waits from now on."""
        self._sequences[seq.request_id] = seq
        if seq.adapter_id:
            self.adapters[seq.adapter_id] += 1
        self.waiting.push(seq)

    def reject(self, request_id: str, problem: str) -> None:
        """Answer a request that is not accepted."""
        self._outputs.append(
            EngineOutput(request_id=request_id, new_token_ids=[], finish_reason="error", error=problem, refused=True)
        )

    def abort(self, request_id: str, *, held: bool = False) -> None:
        """End a request now, also in the middle of a step; an unknown id is ignored, unless its request was `held` elsewhere."""
        seq = self._sequences.get(request_id)
        if seq is not None:
            self.discard(request_id)
            self._outputs.append(seq.output([], "abort"))
        elif held:
            self._outputs.append(EngineOutput(request_id=request_id, new_token_ids=[], finish_reason="abort"))

    def discard(self, request_id: str) -> None:
        """End a request without an output, wherever it is; a step in flight may still write its blocks."""
        seq = self._sequences[request_id]
        if seq.status is not Status.RUNNING:
            self._end(seq)
            self.waiting.note_finished(seq)
            return
        self.running.remove(seq)
        if any(part.seq is seq for step in self.steps for part in step.parts):
            self._aborted.append(seq)
            self._end(seq, free=False)
        else:
            self._end(seq)

    def fail(self, seq: Sequence, error: str) -> None:
        """End a sequence that is neither running nor waiting any more with an error."""
        self._end(seq)
        self._outputs.append(seq.output([], "error", error=error))

    def conclude(self, seq: Sequence) -> None:
        """End a sequence that a step was for; its last output is the step's result."""
        waited = seq.status is not Status.RUNNING
        self._end(seq)
        if waited:
            self.waiting.note_finished(seq)

    def preempt(self, seq: Sequence) -> None:
        """Free the blocks of a sequence, which then waits to be swapped in if it was swapped out, else recomputed.

        A token that a step in flight draws for it still counts.
        """
        self._block_manager.free(seq)
        seq.status = Status.PREEMPTED
        if seq.swapped is None:
            self._restart_prompt(seq)
        self.waiting.push(seq)

    def take_outputs(self) -> list[EngineOutput]:
        """The outputs since the last call that are no step's results: rejected, aborted or impossible requests."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def take_finished_ids(self) -> tuple[str, ...]:
        """The requests whose state the executor drops with the next step."""
        finished, self._finished_ids = self._finished_ids, []
        return tuple(finished)

    def keep_finished_ids(self, request_ids: Collection[str]) -> None:
        """Report these with a later step: the one that had them did not run."""
        self._finished_ids.extend(request_ids)

    def introduce(self, seq: Sequence, num_computed: int) -> NewRequest:
        """The sequence as a request that is new to the executor."""
        seq.in_executor = True
        return NewRequest(
            seq.request_id,
            seq.token_ids[: seq.num_prompt_tokens],
            seq.sampling,
            tuple(list(table) for table in seq.tables),
            num_computed,
            seq.adapter_id,
            seq.token_ids[seq.num_prompt_tokens :],
            seq.second_segment,
        )

    def abandon_steps(self) -> set[str]:
        """Give up all steps in flight: their requests are recomputed. Returns the ids of these."""
        steps, self.steps = self.steps, deque()
        abandoned = {part.seq.request_id: part.seq for step in steps for part in step.parts if not part.discarded}
        self._block_manager.forget(block for step in steps for part in step.parts for block in part.written)
        for step in steps:
            self._block_manager.forget(self._forget_swaps(step.kv_ops))
        for seq in abandoned.values():
            self._restart(seq)
        self.keep_finished_ids([request_id for step in steps for request_id in step.finished_ids])
        self.settle()
        return set(abandoned)

    def prepare_isolation(self) -> StepInFlight:
        """The only step in flight, before its requests are run again one at a time because all of it failed.

        Blocks that it should have swapped in are invalid, and so are those that a preempted sequence should have
        written: how far the step came is unknown.
        """
        (step,) = self.steps
        self._invalid_blocks = self._forget_swaps(step.kv_ops)
        for part in step.parts:
            if (
                part.seq.status is not Status.RUNNING and not part.discarded
            ):  # preempted since: it has no blocks to compute it in
                self._invalid_blocks.update(part.written)
                self._restart(part.seq)
        return step

    def can_run_alone(self, seq: Sequence, failed: Collection[str]) -> bool:
        """True if a sequence of an isolated step still runs, and none of its blocks is affected by `failed` ones."""
        return seq.status is Status.RUNNING and seq not in affected_by(failed, self.steps, self._invalid_blocks)[0]

    def end_failed(self, errors: Mapping[str, str]) -> list[EngineOutput]:
        """End the requests that failed in the older step; all others that are affected are recomputed."""
        if not (errors or self._invalid_blocks):
            return []
        outputs = []
        affected, invalid = affected_by(errors, self.steps, self._invalid_blocks)
        self._invalid_blocks = set()
        self._block_manager.forget(invalid)
        for seq, itself in affected.items():
            if seq.status is Status.FINISHED:
                continue  # aborted since
            if itself:
                self.conclude(seq)
                outputs.append(seq.output([], "error", error=errors[seq.request_id]))
            else:
                self._restart(seq)
        return outputs

    def settle(self) -> None:
        """Finish a step: free the blocks of sequences that were aborted within it, and drop those that no longer run."""
        if self._aborted:
            held = {part.seq for step in self.steps for part in step.parts}
            for seq in self._aborted:
                if seq not in held:
                    self._block_manager.free(seq)
            self._aborted = [seq for seq in self._aborted if seq in held]
        if self._running_is_stale:
            self._running_is_stale = False
            self.running = [seq for seq in self.running if seq.status is Status.RUNNING]

    def _end(self, seq: Sequence, *, free: bool = True) -> None:
        seq.status = Status.FINISHED
        self._running_is_stale = True
        del self._sequences[seq.request_id]
        if seq.adapter_id:
            self.adapters[seq.adapter_id] -= 1
            self.adapters += Counter()  # drops those that have none
        if seq.in_executor:
            self._finished_ids.append(seq.request_id)
        self._block_manager.drop_swapped(seq)
        if free:
            self._block_manager.free(seq)

    def _restart(self, seq: Sequence) -> None:
        """Recompute a sequence as if it were new: its blocks, or the executor's state of it, are invalid."""
        if seq.status is Status.RUNNING:
            self.preempt(seq)
            self._running_is_stale = True
        self._forget_swapped(seq)
        seq.discard_in_flight()
        self._finished_ids.append(seq.request_id)
        seq.in_executor = False

    def _forget_swaps(self, kv_ops: KVOps) -> set[Block]:
        """Forget what a failed step should have swapped out. Returns the blocks that it should have swapped in."""
        moved = {(group, block) for group, _, block in kv_ops.swap_out}
        for seq in self._sequences.values() if moved else ():
            if seq.swapped and any((g, block) in moved for g, held in enumerate(seq.swapped.blocks) for block in held):
                self._forget_swapped(seq)
        return {(group, block) for group, _, block in kv_ops.swap_in}

    def _forget_swapped(self, seq: Sequence) -> None:
        if seq.swapped is not None:
            self._block_manager.drop_swapped(seq)
            self._restart_prompt(seq)

    def _restart_prompt(self, seq: Sequence) -> None:
        if seq.needs_prompt_logprobs:
            seq.num_scored = 0
            seq.discard_in_flight()  # else a step in flight would add to them
