"""The scheduler: which tokens of which requests a step computes, and what its results mean for each request.

Continuous batching as in vLLM v1: there is no prefill or decode phase; every sequence has `num_computed` tokens, which
catch up with its known ones within a budget of tokens a step. Running sequences come first, then waiting ones in
order. When blocks run out, the last sequence in that order is preempted: it waits to be swapped in or recomputed.

Deterministic: the same calls give the same schedule. Clocks are only read to record when things happened.
"""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from octavo_engine.core import background
from octavo_engine.core.adapter_turns import AdapterTurns
from octavo_engine.core.block_manager import BlockManager
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.core.prefill_shares import LEAST_CHUNK, cost, fitting, prefill_share
from octavo_engine.core.rejections import (
    DUPLICATE_ID,
    NOTHING_DRAWN,
    NOTHING_POOLED,
    NOTHING_TO_DRAW,
    never_fits,
    problem_with,
)
from octavo_engine.core.request import Sequence, Status
from octavo_engine.core.request_book import RequestBook
from octavo_engine.core.scheduler_stats import scheduler_stats
from octavo_engine.core.step_pace import StepPace
from octavo_engine.core.steps_in_flight import Part, StepInFlight
from octavo_engine.messages import EngineOutput, EngineRequest, PoolingRequest, SchedulerStats

if TYPE_CHECKING:
    from octavo_engine.config import SchedulerConfig
    from octavo_engine.core.outputs import StepOutput
    from octavo_engine.core.swapping import SwapRule
    from octavo_engine.core.thinking import Thinking
    from octavo_models.spec import KVLayout

ITERATIONS_KEPT = 10_000  # steps whose token counts `stats` has not reported yet


class Scheduler:
    """Schedules the requests of `requests` in the blocks of `block_manager`.

    A step is in flight between `schedule` and `update`. Two may be: the second is then scheduled before the tokens of
    the first are known. Executors run them in order, so a block that the second step frees or reuses still belongs to
    the first while that runs. After a stop token, an abort or a failure in the first step, the results of the second
    are discarded for that sequence.
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
        max_adapters: int = 1,
    ) -> None:
        self.block_manager = BlockManager(
            layout,
            num_blocks,
            max_chunk=config.max_num_batched_tokens,
            caching=enable_prefix_caching,
            num_host_blocks=num_host_blocks,
            swap_rule=swap_rule,
        )
        self.requests = RequestBook(self.block_manager)
        self._max_num_seqs = config.max_num_seqs
        self._max_tokens = config.max_num_batched_tokens
        self._pools = not layout.groups  # without blocks, prompts are computed whole, each in one step
        self._chunked = config.enable_chunked_prefill and not self._pools
        self.pace = StepPace(
            # What may not be cut takes as long as it takes; but how many prompts are pooled at once may be chosen.
            config.max_step_seconds if self._chunked or self._pools else 0.0,
            max_tokens=config.max_num_batched_tokens,
            block_size=layout.block_size,
        )
        self._by_priority = config.policy == "priority"
        self._max_model_len = max_model_len
        self._turns = AdapterTurns(max_adapters)
        self._arrivals = self._steps = 0
        self._queries = self._hits = self._preemptions = 0
        self._iteration_tokens: deque[int] = deque(maxlen=ITERATIONS_KEPT)

    def add(
        self, request: EngineRequest | PoolingRequest, problem: str | None = None, thinking: Thinking | None = None
    ) -> None:
        """Accept a request, or reject it for the caller's `problem` or one found here. `thinking`: its reasoning's budget.

        A request id that is in use ends both requests, because their outputs could not be separated.
        """
        if request.request_id in self.requests:
            self.requests.discard(request.request_id)
            problem = DUPLICATE_ID
        problem = problem or problem_with(request, self._max_model_len, None if self._chunked else self._max_tokens)
        if problem:
            self.requests.reject(request.request_id, problem)
            return
        self._arrivals += 1
        priority = request.priority if self._by_priority else 0
        order, now = (int(request.background), priority, self._arrivals), time.monotonic()
        if isinstance(request, PoolingRequest):
            self.requests.accept(Sequence.from_pooling_request(request, order=order, queued_at=now))
            return
        limit = self._max_model_len
        seq = Sequence.from_request(request, order=order, max_model_len=limit, queued_at=now, thinking=thinking)
        self.requests.accept(seq)

    def schedule(self) -> SchedulerOutput | None:
        """The next step, or None if there is nothing to compute."""
        requests = self.requests
        assert requests.num_in_flight < 2, "two steps are in flight"
        if requests.adapters:
            self._turns.begin(requests.running, requests.waiting)
        step = self._schedule(gives_way=True)
        if step is None and requests.running and requests.running[0].in_background:
            step = self._schedule(gives_way=False)  # what it gave way to can't start yet
        return step

    def _schedule(self, *, gives_way: bool) -> SchedulerOutput | None:
        """The next step; unless the background `gives_way` to what waits, one of running sequences alone."""
        requests = self.requests
        running = requests.running
        parts: list[Part] = []
        budget = background.budget(self.pace, running, requests.waiting)
        num_scheduled: dict[str, int] = {}
        wanted: dict[str, int] = {}
        samples: list[str] = []
        constrained: list[str] = []
        new: list[NewRequest] = []
        continued: list[ContinuedRequest] = []
        unchanged: tuple[list[int], ...] = tuple([] for _ in self.block_manager.pools)
        preemptions = self._preemptions
        prefills = beside = False

        i = 0
        while i < len(running) and budget > 0:
            seq = running[i]
            if seq.order[0] and not beside:  # the first one in the background
                if gives_way and requests.waiting.num_next:
                    break
                beside, budget = True, background.left(budget, len(parts))
                continue
            computed = seq.num_computed
            num_tokens = len(seq.token_ids) + seq.num_pending
            if computed == num_tokens or (seq.num_pending and num_tokens == seq.max_num_tokens):
                i += 1  # a step in flight does the last that there is to do
                continue
            end = num_tokens
            if end > computed + 1:
                share = self._share(i, budget)
                if prefills and share < min(LEAST_CHUNK, end - computed):
                    i += 1
                    continue
                prefills = True
                end = min(end, computed + fitting(self.pace, seq, share))
            added = unchanged
            if end > seq.capacity:
                extended = self._extend(seq, end)
                if extended is None:
                    break  # it was the last one, and was preempted
                added = extended
            if end >= seq.next_fill:
                self._fill(seq, end)
            request_id = seq.request_id
            count = end - computed
            budget -= cost(self.pace, seq, count)
            num_scheduled[request_id] = count
            continued.append(ContinuedRequest(request_id, added, computed))
            part = self._part(seq, count)
            if part.draws:
                samples.append(request_id)
                wanted[request_id] = 1
                if seq.needs_mask:
                    constrained.append(request_id)
            if seq.needs_prompt_logprobs:
                wanted[request_id] = count
            parts.append(part)
            i += 1

        if gives_way and self._preemptions == preemptions:
            for part in self._admit(budget, 0 if beside else len(parts), prefills=prefills):
                seq = part.seq
                request_id = seq.request_id
                num_scheduled[request_id] = part.count
                if seq.in_executor:
                    tables = tuple(list(table) for table in seq.tables)
                    continued.append(ContinuedRequest(request_id, tables, part.first, resumed=True))
                else:
                    new.append(requests.introduce(seq, part.first))
                if part.draws:
                    samples.append(request_id)
                    wanted[request_id] = 1
                    if seq.needs_mask:
                        constrained.append(request_id)
                if seq.needs_prompt_logprobs:
                    wanted[request_id] = part.count
                parts.append(part)
        if not parts:
            return None
        finished_ids = requests.take_finished_ids()
        kv_ops = self.block_manager.take_kv_ops()
        requests.steps.append(StepInFlight(parts, finished_ids, kv_ops))
        self._steps += 1
        # As in vLLM, the token that the end of a prompt draws counts beside the prompt's.
        first_tokens = sum(part.draws and part.first < part.seq.num_prompt_tokens for part in parts)
        self._iteration_tokens.append(sum(num_scheduled.values()) + first_tokens)
        return SchedulerOutput(
            self._steps,
            tuple(new),
            tuple(continued),
            num_scheduled,
            wanted,
            frozenset(samples),
            finished_ids,
            kv_ops=kv_ops,
            constrained=tuple(constrained),
        )

    def isolated(self, step: SchedulerOutput, errors: dict[str, str]) -> Iterator[SchedulerOutput]:
        """The only step in flight again, one request at a time, after it failed as a whole.

        The executor's state of each request is rebuilt. The caller adds those that fail alone to `errors`. Requests
        that share blocks with a failed one are left out, as are those whose blocks were being swapped; `update` has
        them recomputed.
        """
        in_flight = self.requests.prepare_isolation()
        finished = in_flight.finished_ids
        for part in in_flight.parts:
            request_id = part.seq.request_id
            if not self.requests.can_run_alone(part.seq, errors):
                continue
            self._steps += 1
            yield SchedulerOutput(
                self._steps,
                (self.requests.introduce(part.seq, part.first),),
                (),
                {request_id: part.count},
                {request_id: step.logits_wanted[request_id]} if request_id in step.logits_wanted else {},
                step.samples & {request_id},
                (*finished, request_id),
                constrained=(request_id,) if request_id in step.constrained else (),
            )
            if request_id not in errors:
                finished = ()
        self.requests.keep_finished_ids(finished)  # no step has run that reported them to the executor

    def update(self, result: StepOutput) -> list[EngineOutput]:
        """Process the results of the older step in flight: new tokens, ends, errors."""
        requests = self.requests
        outputs = requests.end_failed(result.errors)
        step = requests.steps.popleft()
        tokens_of, logprobs_of = result.tokens, result.logprobs
        finished = Status.FINISHED
        for part in step.parts:
            seq = part.seq
            if seq.status is finished or seq.epoch != part.epoch:
                continue  # discarded
            request_id = seq.request_id
            if part.draws:
                seq.num_pending -= 1
            if seq.needs_prompt_logprobs:
                seq.score(result.prompt_logprobs.get(request_id, []))
                seq.needs_prompt_logprobs = part.end < seq.num_prompt_tokens
            drawn = tokens_of.get(request_id)
            if not drawn:
                if seq.pools:
                    requests.conclude(seq)
                    pooled = result.pooled.get(request_id)
                    error = NOTHING_POOLED if pooled is None else None
                    outputs.append(seq.output([], "error" if error else "stop", error=error, pooled=pooled))
                elif part.draws:
                    requests.conclude(seq)
                    refused = request_id in result.undrawable
                    error = NOTHING_TO_DRAW if refused else NOTHING_DRAWN
                    outputs.append(seq.output([], "error", error=error, refused=refused))
                elif part.end == seq.max_num_tokens:  # max_tokens 0: only the prompt is computed
                    requests.conclude(seq)
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
                requests.conclude(seq)
            if logprobs:
                logprobs = logprobs[: len(drawn)]
            outputs.append(seq.output(drawn, reason, logprobs=logprobs, first=first))
        requests.settle()
        return outputs

    def shorten(self, num_tokens: int) -> int:
        """The most tokens that later steps take after one of `num_tokens` ran out of memory. Whole prompts stay whole."""
        return self.pace.shorten(num_tokens) if self._chunked or self._pools else self._max_tokens

    def stats(self) -> SchedulerStats:
        """Current gauges and counters since the start; the token counts are those of the steps since the last call."""
        iteration_tokens = list(self._iteration_tokens)
        self._iteration_tokens.clear()
        return scheduler_stats(
            self.requests,
            self.block_manager,
            prefix_cache_queries=self._queries,
            prefix_cache_hits=self._hits,
            num_preemptions=self._preemptions,
            iteration_tokens=iteration_tokens,
        )

    def _extend(self, seq: Sequence, end: int) -> tuple[list[int], ...] | None:
        """Blocks for a running sequence, at the cost of those behind it; None if it was preempted itself."""
        while (added := self.block_manager.extend(seq, end)) is None:
            victim = self.requests.running[-1]
            if victim is seq and len(self.requests.running) == 1 and not self.requests.steps:
                self.requests.running.pop()
                self.requests.fail(seq, never_fits(seq, self.block_manager))
            else:
                self._preempt(victim)
            if victim is seq:
                return None
        return added

    def _preempt(self, victim: Sequence) -> None:
        self.requests.running.remove(victim)
        self._preemptions += 1
        victim.num_preemptions += 1
        self.block_manager.swap_out(victim)
        self.requests.preempt(victim)

    def _make_room(self, seq: Sequence) -> bool:
        """Preempt the last running sequence for `seq`, which waits, if that one alone is in the background."""
        running = self.requests.running
        gives_way = bool(running) and running[-1].in_background and not seq.in_background
        if gives_way:
            self._preempt(running[-1])
        return gives_way

    def _share(self, i: int, budget: int) -> int:
        """The most tokens of `budget` for the running sequence `i`, which prefills, as `prefill_share` says."""
        first = self.requests.waiting.first() if len(self.requests.running) < self._max_num_seqs else None
        if first is not None and not self.block_manager.can_allocate(len(first.token_ids)):
            first = None
        return prefill_share(self.requests.running, i, first, budget)

    def _admit(self, budget: int, num_online: int, *, prefills: bool) -> Iterator[Part]:
        """The parts of waiting sequences that start in this step, in order: none overtakes another.

        `num_online`: sequences of it that limit those in the background. `prefills`: whether running ones prefill in it.
        """
        first_budget, preemptions = budget, self._preemptions
        while budget > 0 and (seq := self.requests.waiting.first()) is not None:
            if not self._turns.admits(seq, self._arrivals):
                for row in (rows := self._turns.in_the_way_of(seq, self.requests.running)):
                    self._preempt(row)
                if rows:
                    self._turns.begin(self.requests.running, self.requests.waiting)
                else:
                    self.requests.waiting.park()
                continue
            if seq.in_background and self._preemptions > preemptions:
                return  # it may have made room itself, and its token that is in flight is not known yet
            if len(self.requests.running) >= self._max_num_seqs:
                if self._make_room(seq):
                    continue
                return
            if seq.in_background and num_online:
                if not self._chunked:
                    return  # its prompt is computed whole
                budget, num_online = background.left(budget, num_online), 0
            prefix = self.block_manager.lookup(seq)
            if (count := len(seq.token_ids) - prefix.num_tokens) <= 0:
                return  # what is left is in flight
            if self._pools:
                if count > budget and budget < first_budget:
                    return  # wait for the next step; one that is longer than a step's pace has one of its own
            elif count > budget:
                if not self._chunked and budget < min(count, self._max_tokens):
                    return  # wait for a step that takes it whole, or at least for a whole step
                count = budget
            if (
                self._chunked
                and count > 1
                and (len(self.requests.waiting) if seq.in_background else self.requests.waiting.num_online) > 1
                and len(self.requests.running) + 1 < self._max_num_seqs
            ):
                count = min(count, max(-(-budget // 2), LEAST_CHUNK), budget)  # as in `prefill_share`
            if self._chunked and prefills and count < min(LEAST_CHUNK, len(seq.token_ids) - prefix.num_tokens):
                return
            prefills = prefills or count > 1
            if self._chunked:
                count = fitting(self.pace, seq, count)
            if prefix.swapped and self.requests.running and not self.block_manager.may_move(seq):
                return  # this step swaps as much as it may
            if not self.block_manager.admit(seq, prefix, count):
                if self._make_room(seq):
                    continue
                if self.requests.running or self.requests.steps:
                    return
                self.requests.waiting.pop()
                self.requests.fail(seq, never_fits(seq, self.block_manager))
                continue
            self.requests.waiting.pop()
            if seq.status is Status.WAITING:
                self._queries += len(seq.token_ids)
                self._hits += prefix.num_tokens
                seq.num_cached_tokens = prefix.num_tokens
                seq.scheduled_at = time.monotonic()
            seq.status = Status.RUNNING
            bisect.insort(self.requests.running, seq, key=background.order)
            self._turns.start(seq)
            self._fill(seq, prefix.num_tokens + count)
            budget -= cost(self.pace, seq, count)
            part = self._part(seq, count)
            part.shared = frozenset(self.block_manager.blocks_of(seq, 0, prefix.num_tokens))
            num_online += not seq.in_background
            yield part

    def _part(self, seq: Sequence, count: int) -> Part:
        """Record that the step being scheduled computes the next `count` tokens of `seq`, and draws one if these are all."""
        first = seq.num_computed
        seq.num_computed = end = first + count
        num_tokens = len(seq.token_ids) + seq.num_pending
        draws = end == num_tokens < seq.max_num_tokens
        if draws:
            seq.num_pending += 1
        return Part(seq, first, count, draws, seq.epoch, self.block_manager.blocks_of(seq, first, end))

    def _fill(self, seq: Sequence, end: int) -> None:
        """Cache the blocks that are full once `end` tokens are computed, as far as these tokens are known."""
        known = min(end, len(seq.token_ids))
        if known >= seq.next_fill:
            self.block_manager.fill(seq, known)
