"""Random arrivals, aborts, preemptions and failures over a fake model that keeps real books of its blocks.

`OCTAVO_DEEP_TESTS=1` runs many more of them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from octavo_testing.deep import DEEP
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.core.swapping import SwapRule
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

VOCAB = 50


class RandomClock:
    """Every time that it is read, some milliseconds to seconds have gone by: steps of any duration."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 10 ** self._random.uniform(-3, 1)
        return self._now


class Ledger:
    """A record of what was asked of a core and what came out; asserts the rules that hold after every step."""

    def __init__(self, core: EngineCore, executor: FakeExecutor, *, fcfs: bool, unchunked: int | None = None) -> None:
        self.core = core
        self.executor = executor
        self.requests: dict[str, EngineRequest] = {}
        self.arrived: list[str] = []
        self.tokens: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self.prompt_logprobs: dict[str, list] = {}
        self.fcfs = fcfs
        self.unchunked = unchunked  # tokens of a step, where prompts are not cut
        self.undisturbed = True  # no failure was injected that made a step run apart
        self.may_fail: set[str] = set()

    @property
    def open(self) -> list[str]:
        return [r for r in self.arrived if r not in self.reasons]

    def _beyond_a_step(self, request: EngineRequest) -> bool:
        return self.unchunked is not None and len(request.prompt_token_ids) > self.unchunked

    def add(self, request: EngineRequest) -> None:
        self.requests[request.request_id] = request
        self.arrived.append(request.request_id)
        self.tokens[request.request_id] = []
        self.core.add(request)

    def step(self) -> None:
        steps_before = len(self.executor.steps)
        oldest = min(self.open, key=lambda r: self.requests[r].background, default=None)
        for output in self.core.step():
            rid = output.request_id
            assert rid not in self.reasons, f"{rid} speaks after its end"
            self.tokens[rid] += output.new_token_ids
            if output.prompt_logprobs is not None:
                self.prompt_logprobs[rid] = self.prompt_logprobs.get(rid, []) + output.prompt_logprobs
            if output.logprobs is not None:
                assert [entry.token_id for entry in output.logprobs] == output.new_token_ids
            if output.finish_reason:
                self.reasons[rid] = output.finish_reason
                assert (output.error is not None) == (output.finish_reason == "error")
        self.core.check()
        made = self.executor.steps[steps_before:]
        # One with an adapter may wait for others' to end; that it ends too, `drain` shows.
        if self.fcfs and self.undisturbed and made and oldest and not self.requests[oldest].adapter_id:
            recent = self.executor.steps[-1 - self.executor.asynchronous :]  # its last token may be on the way
            served = any(oldest in step.num_scheduled_tokens for step in recent)
            assert served or oldest in self.reasons, f"{oldest} starves"

    def drain(self) -> None:
        """Run to the end, in a number of steps that has a bound, and compare with what each would have got alone."""
        bound = 100 + 3 * sum(
            len(r.prompt_token_ids) + r.sampling.max_tokens for r in map(self.requests.__getitem__, self.open)
        )
        while self.core.has_work:
            self.step()
            bound -= 1
            assert bound > 0, "the core does not come to an end"
        for rid, request in self.requests.items():
            reason = self.reasons[rid]
            expected, natural = lonely_run(
                request.prompt_token_ids,
                request.sampling,
                max_model_len=self.core.max_model_len,
                vocab_size=VOCAB,
                adapter_id=request.adapter_id,
            )
            got = self.tokens[rid]
            refused = len(request.prompt_token_ids) + min(request.sampling.max_tokens, 1) > self.core.max_model_len
            assert reason != "error" or rid in self.may_fail or refused or self._beyond_a_step(request)
            if reason in {"abort", "error"}:
                assert got == expected[: len(got)]
            else:
                assert (got, reason) == (expected, natural)
            if request.sampling.prompt_logprobs is not None and reason in {"stop", "length"}:
                ids = [entry and entry.token_id for entry in self.prompt_logprobs[rid]]
                assert ids == [None, *request.prompt_token_ids[1:]]
        assert self.core.stats().kv_usage == 0
        assert self.core.stats().num_running == self.core.stats().num_waiting == 0


CONFIGS = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 2, 4]),
        "windows": st.sampled_from([(None,), (None, 5), (6,), (None, 3, 9), (1,), (None, 4)]),
        "max_model_len": st.sampled_from([16, 40]),
        "spare_bytes": st.integers(0, 60),
        "swap_bytes": st.sampled_from([0, 0, 20, 300]),
        "most_moves": st.sampled_from([None, 3, 10]),
        "max_loras": st.integers(1, 2),
        "caching": st.sampled_from([True, True, True, False]),
        "max_num_seqs": st.sampled_from([1, 2, 3, 8]),
        "max_num_batched_tokens": st.sampled_from([1, 3, 8, 30]),
        "max_step_seconds": st.sampled_from([0.0, 0.5]),
        "clock": st.integers(0, 3).map(RandomClock),
        "policy": st.sampled_from(["fcfs", "priority"]),
        "enable_chunked_prefill": st.sampled_from([True, True, False]),
        "asynchronous": st.booleans(),
    }
)
PREFIXES = [[], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 5, 6, 11, 12], [20] * 14]
PROMPTS = st.tuples(
    st.sampled_from(PREFIXES), st.integers(0, 14), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12)
).map(lambda parts: parts[0][: parts[1]] + parts[2])
SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(0, 20),
    seed=st.integers(0, 3),
    min_tokens=st.sampled_from([0, 0, 3]),
    ignore_eos=st.booleans(),
    eos_token_ids=st.sampled_from([(), (7, 8)]),
    stop_token_ids=st.sampled_from([(), (3,)]),
    logprobs=st.sampled_from([None, None, 0]),
    prompt_logprobs=st.sampled_from([None, None, None, 0]),
)
REQUESTS = st.fixed_dictionaries(
    {
        "prompt_token_ids": PROMPTS,
        "sampling": SAMPLING,
        "priority": st.integers(0, 2),
        "background": st.booleans(),
        "cache_salt": st.sampled_from(["", "", "a"]),
        "adapter_id": st.sampled_from([0, 0, 0, 1, 2, 3]),
    }
)


class RandomSchedules(RuleBasedStateMachine):
    """Checks after every step: blocks are conserved, FCFS serves the oldest, no request has outputs after its end."""

    @initialize(config=CONFIGS)
    def start(self, config) -> None:
        config = dict(config)
        most_moves = config.pop("most_moves")
        self.executor = FakeExecutor(**{name: config.pop(name) for name in ("block_size", "windows", "asynchronous")})
        self.core = core_over(self.executor, **config)
        if most_moves is not None:
            self.core._scheduler.block_manager._rule = SwapRule([1.0] * len(self.executor.windows), most_moves)
        self.ledger = Ledger(
            self.core,
            self.executor,
            fcfs=config["policy"] == "fcfs",
            unchunked=None if config["enable_chunked_prefill"] else config["max_num_batched_tokens"],
        )
        self.count = 0

    @rule(fields=st.lists(REQUESTS, min_size=1, max_size=4))
    def arrive(self, fields) -> None:
        for request in fields:
            self.count += 1
            self.ledger.add(EngineRequest(request_id=f"r{self.count}", arrival_time=0.0, **request))

    @rule(steps=st.integers(1, 6))
    def run(self, steps) -> None:
        for _ in range(steps):
            self.ledger.step()

    @precondition(lambda self: self.ledger.open)
    @rule(data=st.data())
    def abort(self, data) -> None:
        self.core.abort([data.draw(st.sampled_from(self.ledger.arrived)), "unknown"])

    @precondition(lambda self: self.ledger.open)
    @rule(data=st.data())
    def abort_within_a_step(self, data) -> None:
        victim = data.draw(st.sampled_from(self.ledger.open))
        self.executor.on_submit = lambda step: self.core.abort([victim])
        self.ledger.step()
        self.executor.on_submit = None

    @rule()
    def forget_prefixes(self) -> None:
        self.core.reset_prefix_cache()

    @precondition(lambda self: self.ledger.open)
    @rule(
        data=st.data(),
        how=st.sampled_from(["at once", "submit", "sample", "collect", "error"]),
        steps=st.integers(1, 3),
    )
    def fail(self, data, how, steps) -> None:
        victim = data.draw(st.sampled_from(self.ledger.open))
        self.ledger.undisturbed = False
        self.executor.fails[victim] = how
        self.ledger.may_fail.add(victim)
        for _ in range(steps):
            self.ledger.step()
        self.executor.fails.clear()

    @rule(
        request=REQUESTS,
        how=st.sampled_from(["submit", "collect", "error"]),
        tails=st.lists(st.integers(0, 14), max_size=3),
    )
    def fail_the_first_of_many_alike(self, request, how, tails) -> None:
        """The others find blocks of it in the very step in which it fails to fill them."""
        self.arrive([request, *(request | {"prompt_token_ids": request["prompt_token_ids"] + [t]} for t in tails)])
        victim = f"r{self.count - len(tails)}"
        self.ledger.undisturbed = False
        self.ledger.may_fail.add(victim)
        self.executor.fails[victim] = how
        for _ in range(3):
            self.ledger.step()
        self.executor.fails.clear()

    @rule(limit=st.integers(2, 4))
    def run_short_of_memory(self, limit) -> None:
        """Leave room for two tokens: an engine that can run no more is as good as lost."""
        self.ledger.undisturbed = False
        self.ledger.may_fail.update(self.ledger.open)  # a chunk of one alone may be more than this
        self.executor.max_tokens_at_once = limit
        self.ledger.step()
        self.executor.max_tokens_at_once = None

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.drain()


RandomSchedules.TestCase.settings = settings(
    max_examples=3000 if DEEP else 150,
    stateful_step_count=60 if DEEP else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestRandomSchedules = RandomSchedules.TestCase


@pytest.mark.slow
@pytest.mark.parametrize("windows", [(None,), (None, 24)])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("swap_bytes", [0, 60, 2000])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_thousands_of_arrivals_in_a_pool_that_is_always_full(asynchronous, policy, windows, swap_bytes) -> None:
    """Every one of them ends with the tokens of a lonely run, although most are preempted on the way."""
    rng = random.Random(5)
    executor = FakeExecutor(block_size=4, windows=windows, asynchronous=asynchronous)
    core = core_over(
        executor,
        max_model_len=96,
        spare_bytes=60,
        swap_bytes=swap_bytes,
        max_num_seqs=12,
        max_num_batched_tokens=32,
        policy=policy,
    )
    ledger = Ledger(core, executor, fcfs=policy == "fcfs")
    prefixes = [[rng.randrange(VOCAB) for _ in range(rng.randrange(4, 40))] for _ in range(8)]
    count = 10_000 if DEEP else 700
    while len(ledger.arrived) < count:
        for _ in range(rng.randrange(3)):
            prompt = rng.choice(prefixes)[: rng.randrange(40)] + [
                rng.randrange(VOCAB) for _ in range(rng.randrange(1, 9))
            ]
            ledger.add(
                EngineRequest(
                    request_id=f"r{len(ledger.arrived)}",
                    prompt_token_ids=prompt,
                    sampling=SamplingParams(max_tokens=rng.randrange(1, 40), seed=rng.randrange(4), eos_token_ids=(7,)),
                    arrival_time=0.0,
                    priority=rng.randrange(3),
                    background=rng.random() < 0.3,
                    adapter_id=max(0, rng.randrange(-2, 4)),
                )
            )
        ledger.step()
        if rng.random() < 0.05 and ledger.open:
            core.abort([rng.choice(ledger.open)])
    ledger.drain()
    assert core.stats().num_preemptions > 20
    assert core.stats().num_swapped == core.stats().swap_usage == 0, "the swap space is empty in the end"
    assert (executor.num_moved > 200) == (swap_bytes > 0)
    assert core.stats().prefix_cache_hits > 300, "each of four adapters, or none, has a cache of its own"
