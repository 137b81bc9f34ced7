"""The engine core: load, then step after step: schedule → submit → sample → collect → update.

Owns the executor and the scheduler; one thread calls it. Independent of sockets, text and asyncio. A problem with a
request is returned by `step` as that request's last output, never raised.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.core.rejections import GENERATES, POOLS, ids_outside_of
from octavo_engine.core.scheduler import Scheduler
from octavo_engine.core.swapping import SwapRule
from octavo_engine.engine.adapters import Adapters, Read
from octavo_engine.engine.constraints import Constraints
from octavo_engine.engine.kv_sizing import (
    GIB,
    adapter_bytes_of,
    check_max_model_len,
    check_memory,
    is_promised,
    kv_bytes_of,
    max_model_len_of,
    num_blocks_of,
    num_host_blocks_of,
    swap_bytes_of,
)
from octavo_engine.engine.pooling_model import pooling_of
from octavo_engine.engine.probe import run_nothing
from octavo_engine.engine.shared_lists import SharedLists
from octavo_engine.engine.swap_probe import block_seconds
from octavo_engine.errors import DeviceLostError, OctavoError, OutOfMemoryError
from octavo_engine.messages import (
    AdapterLoaded,
    AddAdapter,
    EngineOutput,
    EngineRequest,
    PoolingRequest,
    Ready,
    SchedulerStats,
    Vocabulary,
)

if TYPE_CHECKING:
    from octavo_engine.config import EngineConfig
    from octavo_engine.executors.executor import Executor, StepHandle
    from octavo_models.outline import Model

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Launched:
    """A step between its launch and the booking of what it made."""

    step: SchedulerOutput
    handle: StepHandle
    at: float  # the clock's, when it was launched
    sampled: bool = False


class EngineCore:
    """A loaded model with its requests.

    `on_stage(stage, seconds)` is called after each part of the start, with words for a person. `clock` measures steps.
    `read_adapter` reads what low-rank adapters are made of; None: there are none.

    Raises:
        ConfigError: the KV cache can't be had, or the model's length does not fit.
        ModelLoadError, ExecutorError: from the executor's `load`.
    """

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        spec: Model | None = None,
        on_stage: Callable[[str, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        read_adapter: Read | None = None,
    ) -> None:
        self._executor = executor
        self._clock = clock
        self._stages: list[tuple[str, float]] = []
        self._on_stage = on_stage
        self._vocab_size = spec.vocab_size if spec else None
        self._pooling = pooling_of(spec)
        self._adapters = Adapters(executor, config.adapters, read_adapter)
        start = time.perf_counter()
        check_max_model_len(config, spec)
        capacity = executor.load()
        start = self._stage("loaded the weights", start)
        self._layout = capacity.layout
        has_kv = bool(self._layout.groups)  # a model that pools has none
        swap_bytes = swap_bytes_of(config, capacity) if has_kv and executor.capabilities.swapping else 0
        kept = swap_bytes + adapter_bytes_of(config, capacity, spec)
        kv_bytes = kv_bytes_of(config, capacity, kept) if has_kv else 0
        self.max_model_len = max_model_len_of(config, capacity, kv_bytes, spec)
        self.num_blocks = num_blocks_of(config, capacity, kv_bytes, self.max_model_len)
        self.num_host_blocks = num_host_blocks_of(swap_bytes, self.num_blocks, self.kv_cache_bytes)
        executor.limit_length(self.max_model_len)
        executor.init_kv(self.num_blocks, self.num_host_blocks)
        if has_kv and capacity.kv_bytes is None and is_promised(config):
            check_memory(self.kv_cache_bytes + kept, capacity)
            executor.touch_kv()
        self._swap_rule = SwapRule(
            block_seconds(executor, self.num_blocks, self.num_host_blocks), config.scheduler.max_step_seconds
        )
        if has_kv:
            self._stage(f"allocated {self.kv_cache_bytes / GIB:.2f} GiB of KV blocks", start)
        self._scheduler = Scheduler(
            config.scheduler,
            self._layout,
            self.num_blocks,
            max_model_len=self.max_model_len,
            enable_prefix_caching=config.cache.enable_prefix_caching,
            num_host_blocks=self.num_host_blocks,
            swap_rule=self._swap_rule,
            max_adapters=config.adapters.max_loras,
        )
        asynchronous = executor.capabilities.asynchronous and config.scheduler.async_scheduling
        self._ahead = 1 if asynchronous else 0  # steps that may be in flight when `step` returns
        self._in_flight: deque[Launched] = deque()
        self._landed_at = 0.0
        self._busy = False  # there has been work ever since
        self._lists = SharedLists()
        self._careful: set[str] = set()  # while one of these requests lives, no step is in flight between calls
        self._constraints, self._caching = Constraints(self._vocab_size), config.cache.enable_prefix_caching
        if config.adapters.modules:
            start = time.perf_counter()
            self._adapters.load(module.path for module in config.adapters.modules)
            self._stage(f"loaded {len(config.adapters.modules)} adapters", start)
        self._probes = (1, 2) if config.scheduler.max_num_batched_tokens > 1 else (1,)

    @property
    def kv_cache_bytes(self) -> int:
        return sum(n * group.block_bytes for n, group in zip(self.num_blocks, self._layout.groups, strict=True))

    def ready(self) -> Ready:
        """The result of the start, for the API server."""
        return Ready(
            num_blocks=list(self.num_blocks),
            block_size=self._layout.block_size,
            kv_cache_bytes=self.kv_cache_bytes,
            max_model_len=self.max_model_len,
            executor=self._executor.capabilities.name,
            stages=self._stages,
            pooling=self._pooling,
            sleeps=self._executor.capabilities.sleeping,
        )

    @property
    def has_work(self) -> bool:
        """True if `step` would compute or return anything."""
        return self._scheduler.requests.has_work or bool(self._in_flight) or self._constraints.has_compiled

    @property
    def is_compiling(self) -> bool:
        """True if there will be work without another call."""
        return self._constraints.num_compiling > 0

    @property
    def is_reading(self) -> bool:
        """True if an adapter is being read, or waits for requests to end."""
        return self._adapters.is_reading

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Take the tokens that grammars are about."""
        self._constraints.set_vocabulary(vocabulary)

    def add(self, request: EngineRequest | PoolingRequest, *, waited: bool = False) -> None:
        """Accept a request; if it can't be served, the next `step` returns its error. `waited`: for its adapter."""
        problem = self._problem(request, waited=waited)
        if isinstance(request, EngineRequest):
            self._lists.share(request.sampling)
            if problem is None and request.adapter_id and self._adapters.hold(request):
                return
        if problem is None and isinstance(request, EngineRequest) and request.sampling.grammar:
            self._constraints.compile(request)
        else:
            self._add(request, problem)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End these requests now; the next `step` returns their last outputs. Unknown ids are ignored."""
        for request_id in request_ids:
            held = self._constraints.discard(request_id) or self._adapters.discard(request_id)
            self._scheduler.requests.abort(request_id, held=held)

    def add_adapter(self, request: AddAdapter) -> None:
        """Begin to read an adapter."""
        self._adapters.add(request)

    def remove_adapter(self, adapter_id: int) -> None:
        """Free an adapter once its requests have ended; no further one may name it."""
        self._adapters.remove(adapter_id)

    def settle_adapters(self) -> list[AdapterLoaded]:
        """Hand over adapters that were read, and free those that are used no more. The answers to `add_adapter`.

        Raises:
            DeviceLostError: the process must end.
        """
        used = self._scheduler.requests.adapters.keys() | self._constraints.adapters
        replies = self._adapters.settle(used, [launched.step.step_id for launched in self._in_flight])
        for request in self._adapters.take_ready():
            self.add(request, waited=True)
        return replies

    def step(self) -> list[EngineOutput]:
        """Launch a step, if there is anything to compute; what came of it, or of the one before, for each request.

        Where the executor is asynchronous a step is launched before the last one's tokens are read, so the device
        never waits for the host; outputs come one call later.

        Raises:
            DeviceLostError: the process must end.
        """
        scheduler = self._scheduler
        # A step takes all the time since the last one's results, in which these were booked, sent, and requests taken in.
        start = self._landed_at if self._busy else self._clock()
        for request, problem in self._constraints.take_compiled():
            self._add(request, problem)
        step = scheduler.schedule()
        outputs: list[EngineOutput] = []
        if step is not None:
            outputs += self._launch(step, start)
        if self._careful:
            self._careful = {request_id for request_id in self._careful if request_id in scheduler.requests}
        ahead = self._ahead if step is not None and not self._careful else 0
        while len(self._in_flight) > ahead:
            outputs += self._land()
        self._busy = self.has_work
        outputs = scheduler.requests.take_outputs() + outputs
        self._constraints.end(outputs)
        return outputs

    def stats(self) -> SchedulerStats:
        stats, waiting = self._scheduler.stats(), self._constraints.num_compiling + self._adapters.num_waiting
        return msgspec.structs.replace(stats, num_waiting=stats.num_waiting + waiting) if waiting else stats

    def beat_into(self, beats: memoryview) -> None:
        """Increment `beats[0]` as steps progress, by which another process distinguishes a slow step from a dead core."""
        self._executor.beat_into(beats)

    def reset_prefix_cache(self) -> None:
        """Drop the cached blocks that nothing uses."""
        self._scheduler.block_manager.forget_unused()

    def sleep(self) -> None:
        """Give the memory of the KV blocks back until `wake`. No request is left."""
        self._scheduler.block_manager.forget_unused()
        self._executor.sleep(1)

    def wake(self) -> None:
        self._executor.wake()

    def check(self) -> None:
        """Assert the books of the blocks: free + cached + in use == total. For tests."""
        self._scheduler.block_manager.check()

    def close(self) -> None:
        self._adapters.close()
        self._constraints.close()
        self._executor.close()

    def _add(self, request: EngineRequest | PoolingRequest, problem: str | None) -> None:
        if isinstance(request, EngineRequest) and request.fork and not self._caching:
            request = msgspec.structs.replace(request, cache_salt=request.fork)  # only its forks find its blocks
        budget = request.sampling.thinking if isinstance(request, EngineRequest) and problem is None else None
        thinking = None if budget is None else self._constraints.thinking(budget)
        self._scheduler.add(request, problem, thinking)

    def _problem(self, request: EngineRequest | PoolingRequest, *, waited: bool) -> str | None:
        """The reason why this model can't serve the request, in a sentence for its sender; None if it can."""
        if isinstance(request, PoolingRequest):
            if self._pooling is None:
                return GENERATES
            return ids_outside_of(request, self._vocab_size)
        if self._pooling is not None:
            return POOLS
        if request.adapter_id and (refusal := self._adapters.problem(request.adapter_id, waited=waited)) is not None:
            return refusal
        sampling = request.sampling
        if not self._executor.capabilities.grammar_masks:
            if sampling.grammar:
                return "this engine takes no grammar: leave out what constrains the answer"
            if sampling.thinking is not None:
                return "this engine can't force a token: leave out thinking_token_budget"
        return ids_outside_of(request, self._vocab_size)

    def _launch(self, step: SchedulerOutput, start: float) -> list[EngineOutput]:
        """Launch a step that began at `start`; what came of the one before, if a grammar needs its tokens first."""
        outputs: list[EngineOutput] = []
        masks = self._start_masks(step) if not self._in_flight else None
        launched = self._submitted(step, start)
        if launched is None:
            return self._isolate(step)
        if step.constrained and masks is None:
            while self._in_flight[0] is not launched:
                outputs += self._land()
                if not self._in_flight:
                    return outputs  # both steps were given up
            masks = self._start_masks(step)
        if not self._sampled(launched, masks):
            self._in_flight.pop()
            outputs += self._isolate(step)
        return outputs

    def _submitted(self, step: SchedulerOutput, start: float) -> Launched | None:
        """The step once its forward is launched; None if it failed, and by then its exception's frames are gone."""
        try:
            launched = Launched(step, self._executor.submit(step), start)
        except DeviceLostError:
            raise
        except Exception as error:
            logger.exception("step %d failed as a whole; its requests are tried one at a time", step.step_id)
            self._note_failure(step, error)
            return None
        self._in_flight.append(launched)
        return launched

    def _sampled(self, launched: Launched, masks: Future[bytes] | None) -> bool:
        """Launch the draws of a step; False if they failed. Frames: as in `_submitted`."""
        launched.sampled = True
        try:
            self._executor.sample(launched.handle, None if masks is None else masks.result())
        except DeviceLostError:
            raise
        except Exception as error:
            logger.exception("step %d failed as a whole; its requests are tried one at a time", launched.step.step_id)
            self._note_failure(launched.step, error)
            return False
        return True

    def _start_masks(self, step: SchedulerOutput) -> Future[bytes] | None:
        """Compute the masks of a step while its forward runs: all tokens before it must be known. None: it needs none."""
        if not step.constrained:
            return None
        return self._constraints.start_masks(step.constrained, self._scheduler.requests.forced(step.constrained))

    def _land(self) -> list[EngineOutput]:
        """Wait for the oldest step in flight and book what it made."""
        launched = self._in_flight.popleft()
        step = launched.step
        result = None
        try:
            result = self._executor.collect(launched.handle)
        except DeviceLostError:
            raise
        except Exception as error:
            logger.exception("step %d failed as a whole", step.step_id)
            self._note_failure(step, error)
        if result is None:  # here, not above: an exception's frames hold memory
            return self._give_up() if self._scheduler.requests.num_in_flight > 1 else self._isolate(step)
        now = self._clock()
        seconds = now - max(launched.at, self._landed_at)
        self._swap_rule.note_step(step.total_tokens, seconds)
        self._scheduler.pace.note_step(
            step.total_tokens, len(step.num_scheduled_tokens), seconds, step.num_scored_tokens
        )
        self._landed_at = now
        return self._constraints.accept(self._scheduler.update(result))

    def _note_failure(self, step: SchedulerOutput, error: Exception) -> None:
        """Shorten the steps after one that did not fit into memory: as long a one would fail again."""
        if isinstance(error, (OutOfMemoryError, MemoryError)):
            logger.warning(
                "a step of %d tokens ran out of memory: later ones take at most %d; lower --max-num-batched-tokens, "
                "--max-num-seqs or --gpu-memory-utilization",
                step.total_tokens,
                self._scheduler.shorten(step.total_tokens),
            )

    def _isolate(self, step: SchedulerOutput) -> list[EngineOutput]:
        """Run a failed step's requests one at a time, once the step before it has been booked."""
        outputs = []
        while self._in_flight:
            outputs += self._land()
        if self._scheduler.requests.num_in_flight:  # else the step before it has failed too, and both were given up
            outputs += self._constraints.accept(self._scheduler.update(self._execute_isolated(step)))
        return outputs

    def _give_up(self) -> list[EngineOutput]:
        """A step failed when the next one had been scheduled: all requests of both are recomputed.

        Until they have ended, no step is launched before the last one has landed, so that the guilty one is found.
        """
        self._careful |= self._scheduler.requests.abandon_steps()
        while self._in_flight:
            launched = self._in_flight.popleft()
            try:
                if not launched.sampled:
                    self._executor.sample(launched.handle)
                self._executor.collect(launched.handle)
            except DeviceLostError:
                raise
            except Exception:  # its results are discarded anyway
                logger.debug("the step after it failed too", exc_info=True)
        return []

    def _execute(self, step: SchedulerOutput) -> StepOutput:
        masks = self._start_masks(step)
        handle = self._executor.submit(step)
        self._executor.sample(handle, None if masks is None else masks.result())
        return self._executor.collect(handle)

    def _execute_isolated(self, step: SchedulerOutput) -> StepOutput:
        """Run a failed step's requests one at a time: those that fail alone end, the others go on."""
        merged = StepOutput(step.step_id, {})
        undrawable: list[str] = []
        num_run = num_failed = 0
        for alone in self._scheduler.isolated(step, merged.errors):
            (request_id,) = alone.num_scheduled_tokens
            try:
                result = self._execute(alone)
            except DeviceLostError:
                raise
            except Exception as error:  # noqa: BLE001 — whatever it was, it ends this request alone
                logger.error("request %s failed alone, and ends: %r", request_id, error)  # noqa: TRY400 — traced above
                num_failed += 1
                # What an unforeseen exception says is for the log: it may quote other requests, paths or memory.
                why = str(error) if isinstance(error, OctavoError) else "an internal error, which the log describes"
                merged.errors[request_id] = f"the model could not run this request: {why}"
                continue
            num_run += 1
            merged.errors.update(result.errors)
            merged.tokens.update(result.tokens)
            merged.logprobs.update(result.logprobs)
            merged.prompt_logprobs.update(result.prompt_logprobs)
            merged.pooled.update(result.pooled)
            undrawable += result.undrawable
        if num_failed and not num_run:
            run_nothing(self._execute, self._layout, self._probes, pools=self._pooling is not None)
        return replace(merged, undrawable=tuple(undrawable))

    def _stage(self, stage: str, start: float) -> float:
        now = time.perf_counter()
        self._stages.append((stage, now - start))
        if self._on_stage:
            self._on_stage(stage, now - start)
        return now
