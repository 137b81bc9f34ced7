"""What runs in the next step, and what a step's results mean for each request.

Continuous batching as in vLLM v1: there is no prefill or decode phase; every sequence has `num_computed` tokens that
try to catch up with those it knows, within a budget of tokens a step. Running sequences go first, then waiting ones
in order. When pages run out, the last sequence in that order is preempted: it waits again, to be swapped in or
recomputed.

Deterministic: the same calls give the same schedule. Knows nothing of clocks except to note when things happened.
"""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from octavo_engine.core.block_manager import BlockManager, Page
from octavo_engine.core.in_flight import Flight, Part, taint
from octavo_engine.core.outputs import ContinuedRequest, KVOps, NewRequest, SchedulerOutput
from octavo_engine.core.request import Sequence, Status
from octavo_engine.core.waiting_queue import WaitingQueue
from octavo_engine.messages import EngineOutput, EngineRequest, SchedulerStats

if TYPE_CHECKING:
    from octavo_engine.config import SchedulerConfig
    from octavo_engine.core.outputs import StepOutput
    from octavo_engine.core.swapping import SwapRule
    from octavo_models.spec import KVLayout

MAX_TOKEN_ID = 2**32 - 1  # digests are over four bytes a token
ITERATIONS_KEPT = 10_000  # steps that nobody has asked `stats` about


class Scheduler:
    """The requests in the core and their pages.

    A step is in flight between `schedule` and `update`. Two may be: the second is then scheduled although nobody
    knows what the first one draws. Executors run them in order, so pages that the second gives away or takes are the
    first one's as long as it runs. What is found out too late (a stop token, an abort, a failure) voids what the
    second one computes for that sequence.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        layout: KVLayout,
        num_blocks: tuple[int, ...],
        *,
        max_model_len: int,
        enable_prefix_caching: bool,
        num_host_blocks: tuple[int, ...] = (),
        swap_rule: SwapRule | None = None,
    ) -> None:
        self._max_num_seqs = config.max_num_seqs
        self._max_tokens = config.max_num_batched_tokens
        self._chunked = config.enable_chunked_prefill
        self._by_priority = config.policy == "priority"
        self._max_model_len = max_model_len
        self.blocks = BlockManager(
            layout,
            num_blocks,
            max_chunk=config.max_num_batched_tokens,
            caching=enable_prefix_caching,
            num_host_blocks=num_host_blocks,
            swap_rule=swap_rule,
        )
        self._sequences: dict[str, Sequence] = {}  # accepted and not finished
        self._running: list[Sequence] = []  # in order
        self._waiting = WaitingQueue()
        self._arrivals = 0
        self._outputs: list[EngineOutput] = []  # what ended outside of a step's results
        self._left: list[str] = []  # finished ids that the executor still knows
        self._steps = 0
        self._flights: deque[Flight] = deque()  # the steps in flight, the older one first
        self._gaps = False  # some of `_running` no longer run
        self._aborted: list[Sequence] = []  # finished while in flight; their pages are freed with the step
        self._doubtful: set[Page] = set()  # those that the older step, which has failed as a whole, should have swapped in
        self._queries = self._hits = self._preemptions = 0
        self._iteration_tokens: deque[int] = deque(maxlen=ITERATIONS_KEPT)

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

    def add(self, request: EngineRequest, problem: str | None = None) -> None:
        """Take a request in, unless the caller or the scheduler has a problem with it: that ends it with an error.

        So does an id that is in use, and it ends the other one too: nobody could tell their outputs apart.
        """
        if request.request_id in self._sequences:
            self._finish(self._sequences[request.request_id])
            problem = "this request id is in use already; every request needs one of its own"
        problem = problem or self._problem(request)
        if problem:
            self._outputs.append(
                EngineOutput(request_id=request.request_id, new_token_ids=[], finish_reason="error", error=problem)
            )
            return
        self._arrivals += 1
        seq = Sequence.from_request(
            request,
            order=(request.priority if self._by_priority else 0, self._arrivals),
            max_model_len=self._max_model_len,
            queued_at=time.time(),
        )
        self._sequences[seq.request_id] = seq
        self._waiting.push(seq)

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

    def schedule(self) -> SchedulerOutput | None:
        """The next step, or None if there is nothing to compute."""
        assert len(self._flights) < 2, "two steps are in flight"
        running, blocks = self._running, self.blocks
        parts: list[Part] = []
        budget = self._max_tokens
        num_scheduled: dict[str, int] = {}
        wanted: dict[str, int] = {}
        samples: list[str] = []
        new: list[NewRequest] = []
        continued: list[ContinuedRequest] = []
        unchanged: tuple[list[int], ...] = tuple([] for _ in blocks.pools)
        preemptions = self._preemptions

        i = 0
        while i < len(running) and budget:
            seq = running[i]
            computed = seq.num_computed
            num_tokens = seq.num_tokens
            if computed == num_tokens or (seq.num_pending and num_tokens == seq.max_num_tokens):
                i += 1  # a step in flight does the last that there is to do
                continue
            end = num_tokens
            if end > computed + 1:  # one token each is kept for those behind: a long prompt does not halt their output
                end = min(end, computed + max(1, budget - (len(running) - i - 1)))
            added = unchanged
            if end > seq.capacity:
                extended = self._extend(seq, end)
                if extended is None:
                    break  # it was the last one, and is no longer running
                added = extended
            self._fill(seq, end)
            request_id = seq.request_id
            count = end - computed
            budget -= count
            num_scheduled[request_id] = count
            continued.append(ContinuedRequest(request_id, added, computed))
            if end == num_tokens < seq.max_num_tokens:
                samples.append(request_id)
                wanted[request_id] = 1
            if seq.wants_prompt_logprobs:
                wanted[request_id] = count
            parts.append(self._part(seq, count))
            i += 1

        if self._preemptions == preemptions:
            for part in self._admit(budget):
                seq = part.seq
                request_id = seq.request_id
                num_scheduled[request_id] = part.count
                if seq.known:
                    tables = tuple(list(table) for table in seq.tables)
                    continued.append(ContinuedRequest(request_id, tables, part.first, resumed=True))
                else:
                    new.append(self._introduce(seq, part.first))
                if part.draws:
                    samples.append(request_id)
                    wanted[request_id] = 1
                if seq.wants_prompt_logprobs:
                    wanted[request_id] = part.count
                parts.append(part)
        if not parts:
            return None
        left, self._left = self._left, []
        kv_ops = blocks.take_kv_ops()
        self._flights.append(Flight(parts, tuple(left), kv_ops))
        self._steps += 1
        self._iteration_tokens.append(sum(num_scheduled.values()))
        return SchedulerOutput(
            self._steps,
            tuple(new),
            tuple(continued),
            num_scheduled,
            wanted,
            frozenset(samples),
            tuple(left),
            kv_ops=kv_ops,
        )

    def isolated(self, step: SchedulerOutput, errors: dict[str, str]) -> Iterator[SchedulerOutput]:
        """The only step in flight once more, one request at a time, for when it failed as a whole.

        The executor's state of each request is made afresh. The caller adds those that fail alone to `errors`; a
        request whose pages one of those should have filled is left out, and `update` has it recomputed. So is one
        whose pages were being swapped: nobody knows how far that came.
        """
        (flight,) = self._flights
        self._forget_swaps(flight.kv_ops)
        finished = flight.finished_ids
        for part in flight.parts:
            request_id = part.seq.request_id
            if not part.seq.tables or part.seq in taint([flight], errors, self._doubtful)[0]:
                continue  # without pages it has ended, or starts afresh, by an earlier step
            self._steps += 1
            yield SchedulerOutput(
                self._steps,
                (self._introduce(part.seq, part.first),),
                (),
                {request_id: part.count},
                {request_id: step.logits_wanted[request_id]} if request_id in step.logits_wanted else {},
                step.samples & {request_id},
                (*finished, request_id),
            )
            if request_id not in errors:
                finished = ()
        self._left.extend(finished)  # no step came through that would have told the executor of them

    def abandon(self) -> set[str]:
        """Give up all steps in flight: whoever is in them is recomputed. Their ids."""
        flights, self._flights = self._flights, deque()
        abandoned = {part.seq.request_id: part.seq for flight in flights for part in flight.parts if not part.void}
        self.blocks.forget(page for flight in flights for part in flight.parts for page in part.written)
        for flight in flights:
            self._forget_swaps(flight.kv_ops)
            self.blocks.forget(self._doubtful)
        self._doubtful = set()
        for seq in abandoned.values():
            self._start_afresh(seq)
        self._left.extend(request_id for flight in flights for request_id in flight.finished_ids)
        self._settle()
        return set(abandoned)

    def update(self, result: StepOutput) -> list[EngineOutput]:
        """Book the results of the older step in flight: new tokens, ends, errors."""
        outputs: list[EngineOutput] = []
        if result.errors or self._doubtful:
            outputs += self._fail(result.errors)
        flight = self._flights.popleft()
        tokens_of, logprobs_of = result.tokens, result.logprobs
        for part in flight.parts:
            seq = part.seq
            if part.void:
                continue
            request_id = seq.request_id
            if part.draws:
                seq.num_pending -= 1
            if seq.wants_prompt_logprobs:
                self._collect_prompt_logprobs(seq, part.end, result)
            drawn = tokens_of.get(request_id)
            if not drawn:
                if part.draws:
                    self._conclude(seq)
                    outputs.append(seq.output([], "error", error="the model drew no token for this request"))
                elif part.end == seq.max_num_tokens:  # max_tokens 0: only the prompt was wanted
                    self._conclude(seq)
                    outputs.append(seq.output([], "length", first=True))
                continue
            token_ids = seq.token_ids
            first = len(token_ids) == seq.num_prompt_tokens
            reason = None
            for used, token in enumerate(drawn, 1):
                token_ids.append(token)
                if token in seq.stop_ids and seq.num_output_tokens >= seq.sampling.min_tokens:
                    reason = "stop"
                elif len(token_ids) >= seq.max_num_tokens:
                    reason = "length"
                if reason:
                    drawn = drawn[:used]
                    break
            logprobs = logprobs_of.get(request_id) if logprobs_of else None
            if reason is None:
                self._fill(seq, seq.num_computed)
                if not first:
                    outputs.append(EngineOutput(request_id=request_id, new_token_ids=drawn, logprobs=logprobs))
                    continue
            else:
                self._conclude(seq)
            if logprobs:
                logprobs = logprobs[: len(drawn)]
            outputs.append(seq.output(drawn, reason, logprobs=logprobs, first=first))
        self._settle()
        return outputs

    def stats(self) -> SchedulerStats:
        """Gauges of the moment and counters since start; hands over the steps' token counts since the last call."""
        iteration_tokens = list(self._iteration_tokens)
        self._iteration_tokens.clear()
        host = self.blocks.host
        return SchedulerStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            kv_usage=self.blocks.usage,
            prefix_cache_queries=self._queries,
            prefix_cache_hits=self._hits,
            num_preemptions=self._preemptions,
            num_swapped=host.num_holders if host else 0,
            swap_usage=host.usage if host else 0.0,
            iteration_tokens=iteration_tokens,
        )

    def _problem(self, request: EngineRequest) -> str | None:
        """Why a request can't be served here, in a sentence for its sender; None if it can."""
        prompt = request.prompt_token_ids
        if not prompt:
            return "the prompt is empty: it needs at least one token"
        room = min(request.sampling.max_tokens, 1)
        if len(prompt) + room > self._max_model_len:
            return (
                f"the prompt has {len(prompt)} tokens and the model's context {self._max_model_len}, of which the "
                "output needs at least one: shorten the prompt, or serve with a larger --max-model-len"
            )
        if not self._chunked and len(prompt) > self._max_tokens:
            return (
                f"the prompt has {len(prompt)} tokens, and without chunked prefill a step takes {self._max_tokens}: "
                "shorten the prompt, or serve with --enable-chunked-prefill or a larger --max-num-batched-tokens"
            )
        if min(prompt) < 0 or max(prompt) > MAX_TOKEN_ID:
            return f"the prompt has token ids outside 0 to {MAX_TOKEN_ID}: send ids of this model's vocabulary"
        return None

    def _extend(self, seq: Sequence, end: int) -> tuple[list[int], ...] | None:
        """Pages for a running sequence, at the cost of those behind it; None if it had to go itself."""
        while (added := self.blocks.extend(seq, end)) is None:
            victim = self._running.pop()
            if victim is seq and not self._running and not self._flights:
                self._end(seq)
                self._outputs.append(seq.output([], "error", error=self._never_fits(seq)))
            else:
                self._preemptions += 1
                victim.num_preemptions += 1
                self.blocks.swap_out(victim)
                self._preempt(victim)
            if victim is seq:
                return None
        return added

    def _admit(self, budget: int) -> Iterator[Part]:
        """The parts of waiting sequences that start now.

        None overtakes the first that must wait.
        """
        while budget and len(self._running) < self._max_num_seqs:
            seq = self._waiting.first()
            if seq is None:
                return
            prefix = self.blocks.lookup(seq)
            count = len(seq.token_ids) - prefix.num_tokens
            if count > budget:
                if not self._chunked and budget < min(count, self._max_tokens):
                    return  # it waits for a step that takes it whole, or at least for a whole step
                count = budget
            if not self.blocks.admit(seq, prefix, count):
                if self._running or self._flights:
                    return
                self._waiting.pop()
                self._end(seq)
                self._outputs.append(seq.output([], "error", error=self._never_fits(seq)))
                continue
            self._waiting.pop()
            if seq.status is Status.WAITING:
                self._queries += len(seq.token_ids)
                self._hits += prefix.num_tokens
                seq.num_cached_tokens = prefix.num_tokens
                seq.scheduled_at = time.time()
            seq.status = Status.RUNNING
            bisect.insort(self._running, seq, key=_order)
            found = self.blocks.pages_of(seq, 0, prefix.num_tokens)
            self._fill(seq, prefix.num_tokens + count)
            budget -= count
            part = self._part(seq, count)
            part.shared = frozenset(found)
            yield part

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
        """Give up its pages; it waits to be recomputed, or swapped in if it was swapped out.

        A token that a step in flight draws for it still counts.
        """
        self.blocks.free(seq)
        seq.status = Status.PREEMPTED
        if seq.swapped is None:
            self._restart_prompt(seq)
        self._waiting.push(seq)

    def _start_afresh(self, seq: Sequence) -> None:
        """Its pages or the executor's state of it are not what they should be: recompute it as if it were new."""
        if seq.status is Status.RUNNING:
            self._preempt(seq)
            self._gaps = True
        self._forget_swapped(seq)
        seq.disown()
        self._left.append(seq.request_id)
        seq.known = False

    def _finish(self, seq: Sequence) -> None:
        """End a sequence wherever it stands, also in a step in flight, which still writes its pages."""
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

    def _forget_swaps(self, kv_ops: KVOps) -> None:
        """Trust no page that a failed step should have moved, on neither side."""
        self._doubtful = {(group, page) for group, _, page in kv_ops.swap_in}
        moved = {(group, page) for group, _, page in kv_ops.swap_out}
        if not moved:
            return
        for seq in self._sequences.values():
            if seq.swapped and any((g, page) in moved for g, held in enumerate(seq.swapped.pages) for page in held):
                self._forget_swapped(seq)

    def _forget_swapped(self, seq: Sequence) -> None:
        if seq.swapped is not None:
            self.blocks.drop_swapped(seq)
            self._restart_prompt(seq)

    def _restart_prompt(self, seq: Sequence) -> None:
        if seq.wants_prompt_logprobs:
            seq.prompt_logprobs = [None]
            seq.disown()  # else a step in flight would add to them

    def _part(self, seq: Sequence, count: int) -> Part:
        """Note that the step being scheduled computes the next `count` tokens of `seq`, and perhaps draws one."""
        first = seq.num_computed
        seq.num_computed = end = first + count
        draws = end == seq.num_tokens < seq.max_num_tokens
        seq.num_pending += draws
        return Part(seq, first, count, draws, seq.epoch, self.blocks.pages_of(seq, first, end))

    def _fill(self, seq: Sequence, end: int) -> None:
        """Enter the pages that are full once `end` tokens are computed, as far as these are known."""
        known = min(end, len(seq.token_ids))
        if known >= seq.next_fill:
            self.blocks.fill(seq, known)

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
        if seq.status is not Status.RUNNING:
            self._waiting.note_finished()
        self._end(seq)

    def _settle(self) -> None:
        """After a step: pages of those that were aborted within one, and the list of those that run."""
        if self._aborted:
            held = {part.seq for flight in self._flights for part in flight.parts}
            for seq in self._aborted:
                if seq not in held:
                    self.blocks.free(seq)
            self._aborted = [seq for seq in self._aborted if seq in held]
        if self._gaps:
            self._gaps = False
            self._running = [seq for seq in self._running if seq.status is Status.RUNNING]

    @staticmethod
    def _collect_prompt_logprobs(seq: Sequence, end: int, result: StepOutput) -> None:
        seq.prompt_logprobs.extend(result.prompt_logprobs.get(seq.request_id, ()))
        if end >= seq.num_prompt_tokens:
            seq.wants_prompt_logprobs = False

    def _never_fits(self, seq: Sequence) -> str:
        pages = [pool.total for pool in self.blocks.pools]
        return (
            f"{len(seq.token_ids)} tokens do not fit the KV cache, which has {pages} pages of "
            f"{self.blocks.block_size} tokens: serve with a larger --kv-cache-memory-bytes or a smaller --max-model-len"
        )


def _order(seq: Sequence) -> tuple[int, int]:
    return seq.order
