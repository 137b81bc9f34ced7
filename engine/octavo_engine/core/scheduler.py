"""What runs in the next step, and what a step's results mean for each request.

Continuous batching as in vLLM v1: there is no prefill or decode phase; every sequence has `num_computed` tokens that
try to catch up with those it knows, within a budget of tokens a step. Running sequences go first, then waiting ones
in order. When blocks run out, the last sequence in that order is preempted: it waits again, to be swapped in or
recomputed.

Deterministic: the same calls give the same schedule. Knows nothing of clocks except to note when things happened.
"""

from __future__ import annotations

import bisect
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from octavo_engine.core.block_manager import BlockManager
from octavo_engine.core.in_flight import Flight, Part, taint
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.core.request import Sequence, Status
from octavo_engine.core.request_book import RequestBook
from octavo_engine.core.step_pace import StepPace
from octavo_engine.messages import EngineOutput, EngineRequest, SchedulerStats

if TYPE_CHECKING:
    from octavo_engine.config import SchedulerConfig
    from octavo_engine.core.outputs import StepOutput
    from octavo_engine.core.swapping import SwapRule
    from octavo_models.spec import KVLayout

MAX_TOKEN_ID = 2**32 - 1  # digests are over four bytes a token
NOTHING_TO_DRAW = (
    "no token can be drawn: allowed_token_ids, bad_words and the stop tokens before min_tokens together ban every one; "
    "allow more tokens or ban fewer"
)
ITERATIONS_KEPT = 10_000  # steps that nobody has asked `stats` about


class Scheduler(RequestBook):
    """The turns of the requests in the core.

    A step is in flight between `schedule` and `update`. Two may be: the second is then scheduled although nobody
    knows what the first one draws. Executors run them in order, so blocks that the second gives away or takes are the
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
        blocks = BlockManager(
            layout,
            num_blocks,
            max_chunk=config.max_num_batched_tokens,
            caching=enable_prefix_caching,
            num_host_blocks=num_host_blocks,
            swap_rule=swap_rule,
        )
        super().__init__(blocks)
        self._max_num_seqs = config.max_num_seqs
        self._max_tokens = config.max_num_batched_tokens
        self._chunked = config.enable_chunked_prefill
        self.pace = StepPace(
            config.max_step_seconds if self._chunked else 0.0,  # what may not be cut takes as long as it takes
            max_tokens=config.max_num_batched_tokens,
            block_size=layout.block_size,
        )
        self._by_priority = config.policy == "priority"
        self._max_model_len = max_model_len
        self._arrivals = 0
        self._steps = 0
        self._queries = self._hits = self._preemptions = 0
        self._iteration_tokens: deque[int] = deque(maxlen=ITERATIONS_KEPT)

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
                EngineOutput(
                    request_id=request.request_id, new_token_ids=[], finish_reason="error", error=problem, refused=True
                )
            )
            return
        self._arrivals += 1
        seq = Sequence.from_request(
            request,
            order=(request.priority if self._by_priority else 0, self._arrivals),
            max_model_len=self._max_model_len,
            queued_at=time.monotonic(),
        )
        self._sequences[seq.request_id] = seq
        self._waiting.push(seq)

    def schedule(self) -> SchedulerOutput | None:
        """The next step, or None if there is nothing to compute."""
        assert len(self._flights) < 2, "two steps are in flight"
        running, blocks = self._running, self.blocks
        parts: list[Part] = []
        alone = len(running) + len(self._waiting) == 1
        budget = self.pace.tokens(len(running), alone=alone)
        num_scheduled: dict[str, int] = {}
        wanted: dict[str, int] = {}
        samples: list[str] = []
        new: list[NewRequest] = []
        continued: list[ContinuedRequest] = []
        unchanged: tuple[list[int], ...] = tuple([] for _ in blocks.pools)
        preemptions = self._preemptions

        i = 0
        while i < len(running) and budget > 0:
            seq = running[i]
            computed = seq.num_computed
            num_tokens = len(seq.token_ids) + seq.num_pending
            if computed == num_tokens or (seq.num_pending and num_tokens == seq.max_num_tokens):
                i += 1  # a step in flight does the last that there is to do
                continue
            end = num_tokens
            if end > computed + 1:
                end = min(end, computed + self._fitting(seq, self._share(i, budget)))
            added = unchanged
            if end > seq.capacity:
                extended = self._extend(seq, end)
                if extended is None:
                    break  # it was the last one, and is no longer running
                added = extended
            if end >= seq.next_fill:
                self._fill(seq, end)
            request_id = seq.request_id
            count = end - computed
            budget -= self._cost(seq, count)
            num_scheduled[request_id] = count
            continued.append(ContinuedRequest(request_id, added, computed))
            part = self._part(seq, count)
            if part.draws:
                samples.append(request_id)
                wanted[request_id] = 1
            if seq.wants_prompt_logprobs:
                wanted[request_id] = count
            parts.append(part)
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
        request whose blocks one of those should have filled is left out, and `update` has it recomputed. So is one
        whose blocks were being swapped: nobody knows how far that came.
        """
        (flight,) = self._flights
        self._doubtful = self._forget_swaps(flight.kv_ops)
        for part in flight.parts:
            if not part.seq.tables and not part.void:  # preempted meanwhile: there is nowhere to compute it again
                self._doubtful.update(part.written)
                self._start_afresh(part.seq)
        finished = flight.finished_ids
        for part in flight.parts:
            request_id = part.seq.request_id
            if not part.seq.tables or part.seq in taint([flight], errors, self._doubtful)[0]:
                continue  # without blocks it has ended, or starts afresh
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

    def update(self, result: StepOutput) -> list[EngineOutput]:
        """Book the results of the older step in flight: new tokens, ends, errors."""
        outputs: list[EngineOutput] = []
        if result.errors or self._doubtful:
            outputs += self._fail(result.errors)
        flight = self._flights.popleft()
        tokens_of, logprobs_of = result.tokens, result.logprobs
        finished = Status.FINISHED
        for part in flight.parts:
            seq = part.seq
            if seq.status is finished or seq.epoch != part.epoch:
                continue  # void
            request_id = seq.request_id
            if part.draws:
                seq.num_pending -= 1
            if seq.wants_prompt_logprobs:
                seq.score(result.prompt_logprobs.get(request_id, []))
                seq.wants_prompt_logprobs = part.end < seq.num_prompt_tokens
            drawn = tokens_of.get(request_id)
            if not drawn:
                if part.draws:
                    self._conclude(seq)
                    refused = request_id in result.undrawable
                    error = NOTHING_TO_DRAW if refused else "the model drew no token for this request"
                    outputs.append(seq.output([], "error", error=error, refused=refused))
                elif part.end == seq.max_num_tokens:  # max_tokens 0: only the prompt was wanted
                    self._conclude(seq)
                    outputs.append(seq.output([], "length", first=True))
                elif seq.prompt_logprobs and seq.num_scored:  # in parts: all of them would hold up the server
                    entries = seq.take_prompt_logprobs()
                    outputs.append(EngineOutput(request_id=request_id, new_token_ids=[], prompt_logprobs=entries))
                continue
            first = len(seq.token_ids) == seq.num_prompt_tokens
            drawn, reason = seq.take(drawn)
            logprobs = logprobs_of.get(request_id) if logprobs_of else None
            if reason is None:
                if seq.num_computed >= seq.next_fill:
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

    def shorten(self, num_tokens: int) -> int:
        """A step of `num_tokens` ran out of memory: the most that later ones take. Whole prompts stay whole."""
        return self.pace.shorten(num_tokens) if self._chunked else self._max_tokens

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
        """Blocks for a running sequence, at the cost of those behind it; None if it had to go itself."""
        while (added := self.blocks.extend(seq, end)) is None:
            victim = self._running.pop()
            if victim is seq and not self._running and not self._flights:
                self._end(seq)
                self._outputs.append(seq.output([], "error", error=never_fits(seq, self.blocks)))
            else:
                self._preemptions += 1
                victim.num_preemptions += 1
                self.blocks.swap_out(victim)
                self._preempt(victim)
            if victim is seq:
                return None
        return added

    def _share(self, i: int, budget: int) -> int:
        """The most tokens of `budget` for the running sequence `i`, which prefills.

        Those behind it keep a token each, so that a long prompt does not halt their output, and half of the budget if
        they or the first that waits can use it, so that a short prompt does not wait for the end of a long one.
        """
        behind = self._running[i + 1 :]
        wanted = sum(len(seq.token_ids) + seq.num_pending - seq.num_computed for seq in behind)
        first = self._waiting.first() if len(self._running) < self._max_num_seqs else None
        if first is not None and self.blocks.has_room(len(first.token_ids)):
            wanted += len(first.token_ids)
        return max(1, min(budget - len(behind), max(budget - wanted, budget // 2)))

    def _fitting(self, seq: Sequence, count: int) -> int:
        """How many of the next `count` tokens of `seq` take the time of `count` tokens without log-probabilities."""
        return max(1, int(count / self.pace.scored_cost)) if seq.wants_prompt_logprobs else count

    def _cost(self, seq: Sequence, count: int) -> int:
        """How many tokens of a step's budget the next `count` of `seq` take."""
        return math.ceil(count * self.pace.scored_cost) if seq.wants_prompt_logprobs else count

    def _admit(self, budget: int) -> Iterator[Part]:
        """The parts of waiting sequences that start now.

        None overtakes the first that must wait.
        """
        while budget > 0 and len(self._running) < self._max_num_seqs:
            seq = self._waiting.first()
            if seq is None:
                return
            prefix = self.blocks.lookup(seq)
            count = len(seq.token_ids) - prefix.num_tokens
            if count > budget:
                if not self._chunked and budget < min(count, self._max_tokens):
                    return  # it waits for a step that takes it whole, or at least for a whole step
                count = budget
            if self._chunked and count > 1 and len(self._waiting) > 1 and len(self._running) + 1 < self._max_num_seqs:
                count = min(count, -(-budget // 2))  # as in `_share`
            if self._chunked:
                count = self._fitting(seq, count)
            if prefix.swapped and self._running and not self.blocks.may_move(seq):
                return  # this step moves as much as it may
            if not self.blocks.admit(seq, prefix, count):
                if self._running or self._flights:
                    return
                self._waiting.pop()
                self._end(seq)
                self._outputs.append(seq.output([], "error", error=never_fits(seq, self.blocks)))
                continue
            self._waiting.pop()
            if seq.status is Status.WAITING:
                self._queries += len(seq.token_ids)
                self._hits += prefix.num_tokens
                seq.num_cached_tokens = prefix.num_tokens
                seq.scheduled_at = time.monotonic()
            seq.status = Status.RUNNING
            bisect.insort(self._running, seq, key=_order)
            found = self.blocks.blocks_of(seq, 0, prefix.num_tokens)
            self._fill(seq, prefix.num_tokens + count)
            budget -= self._cost(seq, count)
            part = self._part(seq, count)
            part.shared = frozenset(found)
            yield part

    def _part(self, seq: Sequence, count: int) -> Part:
        """Note that the step being scheduled computes the next `count` tokens of `seq`, and perhaps draws one."""
        first = seq.num_computed
        seq.num_computed = end = first + count
        num_tokens = len(seq.token_ids) + seq.num_pending
        draws = end == num_tokens < seq.max_num_tokens
        if draws:
            seq.num_pending += 1
        return Part(seq, first, count, draws, seq.epoch, self.blocks.blocks_of(seq, first, end))

    def _fill(self, seq: Sequence, end: int) -> None:
        """Enter the blocks that are full once `end` tokens are computed, as far as these are known."""
        known = min(end, len(seq.token_ids))
        if known >= seq.next_fill:
            self.blocks.fill(seq, known)


def _order(seq: Sequence) -> tuple[int, int]:
    return seq.order


def never_fits(seq: Sequence, blocks: BlockManager) -> str:
    """What is told of a sequence that no blocks are enough for, even alone."""
    totals = [pool.total for pool in blocks.pools]
    return (
        f"{len(seq.token_ids)} tokens do not fit the KV cache, which has {totals} blocks of "
        f"{blocks.block_size} tokens: serve with a larger --kv-cache-memory-bytes or a smaller --max-model-len"
    )
