"""The length of steps: prompts are cut by what tokens were seen to take. Whole schedules, by a clock that tests set."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.core.step_pace import ALONE, FIRST_TOKENS, STEPS_UNTIL_LONGER, StepPace
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import OutOfMemoryError
from octavo_engine.executors.executor import StepHandle
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

LONGEST = 0.5


@dataclass
class SlowExecutor(FakeExecutor):
    """A machine whose steps take `overhead` and `per_token` seconds, times what `disturbance` says of a step.

    Each token whose log-probability is wanted takes `per_scored` more.
    """

    overhead: float = 0.0
    per_token: float = 0.0
    per_scored: float = 0.0
    disturbance: dict[int, float] = field(default_factory=dict)
    now: float = 0.0
    seconds: list[float] = field(default_factory=list)
    _ready_at: dict[int, float] = field(default_factory=dict)
    _free_at: float = 0.0

    def submit(self, step: SchedulerOutput) -> StepHandle:
        took = self.overhead + self.per_token * step.total_tokens + self.per_scored * step.num_scored_tokens
        took *= self.disturbance.get(len(self.steps), 1.0)
        self.seconds.append(took)
        self._free_at = max(self.now, self._free_at) + took
        self._ready_at[step.step_id] = self._free_at
        return super().submit(step)

    def collect(self, handle: StepHandle) -> StepOutput:
        self.now = max(self.now, self._ready_at.pop(handle.step_id))
        return super().collect(handle)

    def clock(self) -> float:
        return self.now


def core_of(executor: SlowExecutor, *, max_num_batched_tokens: int = 2048, **scheduler) -> EngineCore:
    return core_over(
        executor,
        max_model_len=6_000,
        spare_bytes=40_000,
        clock=executor.clock,
        max_num_batched_tokens=max_num_batched_tokens,
        **scheduler,
    )


def request(name: str, prompt: int, max_tokens: int = 10_000, prompt_logprobs: int | None = None) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        prompt_token_ids=[(ord(name[-1]) + i * i) % 50 for i in range(prompt)],
        sampling=SamplingParams(max_tokens=max_tokens, ignore_eos=True, prompt_logprobs=prompt_logprobs),
        arrival_time=0.0,
    )


def prefill(core: EngineCore, name: str) -> list[int]:
    """Step until `name` has drawn: the tokens that it computed in each step."""
    executor: SlowExecutor = core._executor
    first = len(executor.steps)
    for _ in range(5000):
        outputs = core.step()
        core.check()
        if any(o.request_id == name and o.new_token_ids for o in outputs):
            return [step.num_scheduled_tokens.get(name, 0) for step in executor.steps[first:]]
    raise AssertionError("no first token")


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("per_token", [0.001, 0.003, 0.02])
def test_stream_waits_no_longer_than_a_step_behind_another_prefill(per_token: float, asynchronous: bool) -> None:
    """The first step, of which nothing was known, and the ones that were in flight then are the exception."""
    executor = SlowExecutor(per_token=per_token, overhead=0.01, asynchronous=asynchronous)
    core = core_of(executor)
    core.add(request("stream", 20))
    core.step()
    core.add(request("long", 2500))
    chunks = prefill(core, "long")
    slow = [seconds for seconds in executor.seconds if seconds > LONGEST]
    assert len(slow) <= 1 + asynchronous
    steps = [step for step in executor.steps if "long" in step.num_scheduled_tokens]
    assert sum("stream" in step.samples for step in steps) == len(steps), "the stream gets a token in each of them"
    assert sum(executor.seconds) / len(executor.seconds) > 0.2 * LONGEST, "and chunks are not needlessly small"
    assert sum(chunks) >= 2500


@pytest.mark.parametrize("asynchronous", [False, True])
def test_fast_machine_takes_whole_steps_after_a_few(asynchronous: bool) -> None:
    """On a GPU nothing is cut but the first steps, each of which may be twice as large as the one before."""
    executor = SlowExecutor(per_token=0.00002, overhead=0.004, asynchronous=asynchronous)
    core = core_of(executor, max_num_batched_tokens=512)
    core.add(request("stream", 20))
    core.step()
    core.add(request("a", 3000))
    chunks = prefill(core, "a")
    assert chunks[0] <= 2 * FIRST_TOKENS
    assert 511 in chunks[: 4 * (1 + asynchronous)]
    core.add(request("b", 3000))
    assert prefill(core, "b")[:5] == [510] * 5


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("per_scored", [0.0002, 0.01])
def test_log_probabilities_of_a_prompt_count_as_work(per_scored: float, asynchronous: bool) -> None:
    """A prompt that asks for them is cut shorter than one that does not, also right after one that showed a fast
    machine.
    """
    executor = SlowExecutor(per_token=0.0001, per_scored=per_scored, overhead=0.01, asynchronous=asynchronous)
    core = core_of(executor)
    core.add(request("stream", 20))
    core.add(request("plain", 5000, 1))
    assert max(prefill(core, "plain")) > 1000
    first = len(executor.seconds)
    core.add(request("scored", 2500, 1, prompt_logprobs=0))
    core.add(request("other", 2500, 1))
    prefill(core, "scored")
    slow = [seconds for seconds in executor.seconds[first:] if seconds > LONGEST]
    assert len(slow) <= 1 + asynchronous, slow
    between = [step for step in executor.steps[first:] if "scored" in step.num_scheduled_tokens]
    assert all("stream" in step.samples for step in between)
    assert len(between) < 4 * 2500 * (per_scored + 0.0001) / (LONGEST / 2) + 12, "and not needlessly short"


def test_what_is_done_between_steps_counts_as_the_next_ones_time() -> None:
    """Outputs are converted and sent, requests are taken in: a stream waits for that as well."""
    executor = SlowExecutor(per_token=0.001)
    core = core_of(executor)
    core.add(request("stream", 20))
    core.add(request("long", 4000))
    for _ in range(10):
        core.step()
        executor.now += 0.1
    assert 50 < executor.steps[-1].num_scheduled_tokens["long"] < 200, "0.1 s are left of it"


def test_disturbed_step_is_forgotten_within_a_few() -> None:
    """One step that takes a hundredfold (a kernel is compiled, a neighbour is loud) cuts the next ones only."""
    executor = SlowExecutor(per_token=0.0001, overhead=0.004, disturbance={6: 100.0})
    core = core_of(executor, max_num_batched_tokens=512)
    core.add(request("stream", 20))
    core.add(request("long", 5000))
    chunks = prefill(core, "long")
    assert chunks[6] == 511
    assert chunks[7] < 100
    assert chunks[12] == 511


def test_hopeless_machine_computes_a_block_a_step() -> None:
    """Prompts come to an end even where a single token takes longer than a step should."""
    executor = SlowExecutor(block_size=16, per_token=1.0, overhead=1.0)
    core = core_of(executor)
    core.add(request("stream", 3))
    core.add(request("long", 200))
    chunks = prefill(core, "long")
    assert set(chunks[2:-1]) == {17}, "and the token that it is sure of, as each running one is"


def test_prefills_keep_a_share_beside_decodes_that_take_the_whole_step() -> None:
    """Many streams with long contexts may take longer than a step should by themselves; prompts go on meanwhile."""
    pace = StepPace(LONGEST, max_tokens=2048, block_size=16)
    for _ in range(20):
        num_tokens = pace.tokens(128, alone=False)
        pace.note_step(num_tokens, 128, 0.005 * num_tokens)
    assert 128 + 16 <= pace.tokens(128, alone=False) <= 128 + 32


def test_steps_of_decodes_alone_say_nothing_of_prompts() -> None:
    """A model that takes a second for a token may take little more for a chunk."""
    pace = StepPace(LONGEST, max_tokens=2048, block_size=16)
    pace.note_step(64, 1, 0.1)
    before = pace.tokens(4, alone=False)
    pace.note_step(4, 4, 3.0)
    assert pace.tokens(4, alone=False) == before


def test_prefill_that_no_request_waits_behind_takes_longer_steps() -> None:
    """Steps become shorter once a request arrives behind it."""
    executor = SlowExecutor(per_token=0.004)
    core = core_of(executor)
    core.add(request("alone", 4000))
    for _ in range(7):
        core.step()
    chunk = executor.steps[-1].num_scheduled_tokens["alone"]
    assert LONGEST < chunk * 0.004 <= LONGEST * ALONE
    core.add(request("b", 4000))
    core.step()
    core.step()
    assert executor.steps[-1].total_tokens * 0.004 <= LONGEST


def test_zero_bounds_no_step_by_time() -> None:
    """--max-step-seconds 0: steps are as large as --max-num-batched-tokens from the first one on."""
    executor = SlowExecutor(per_token=1.0)
    core = core_of(executor, max_step_seconds=0.0)
    core.add(request("a", 5000))
    assert prefill(core, "a") == [2048, 2048, 904]


def test_prompt_that_may_not_be_cut_is_not_cut_by_time() -> None:
    """Without chunked prefill a slow machine takes as long as the prompt takes."""
    executor = SlowExecutor(per_token=1.0)
    core = core_of(executor, enable_chunked_prefill=False)
    for name in "ab":
        core.add(request(name, 2000))
        assert prefill(core, name) == [2000]


def test_texts_do_not_depend_on_the_pace() -> None:
    """Chunks move with the machine's load; what is drawn does not."""
    for seed in range(4):
        rng = random.Random(seed)
        disturbance = {i: 10 ** rng.uniform(-1, 2) for i in range(2000)}
        executor = SlowExecutor(per_token=0.002, disturbance=disturbance, asynchronous=bool(seed % 2))
        core = core_of(executor)
        requests = [request(name, rng.randrange(1, 300), rng.randrange(1, 30)) for name in "abcdefgh"]
        tokens: dict[str, list[int]] = {r.request_id: [] for r in requests}
        for made in requests:
            core.add(made)
            for output in core.step():
                tokens[output.request_id] += output.new_token_ids
        while core.has_work:
            for output in core.step():
                tokens[output.request_id] += output.new_token_ids
            core.check()
        for made in requests:
            expected, _ = lonely_run(made.prompt_token_ids, made.sampling, max_model_len=6_000, vocab_size=50)
            assert tokens[made.request_id] == expected


@given(
    steps=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 300), st.floats(0.0, 1e6)), max_size=50),
    running=st.integers(0, 400),
    max_tokens=st.integers(1, 3000),
    block_size=st.sampled_from([1, 16, 64]),
)
def test_pace_stays_within_its_bounds(steps, running, max_tokens, block_size) -> None:
    """Whatever steps are said to have taken: decodes are never cut, prefills get a block, and no step is too large."""
    pace = StepPace(LONGEST, max_tokens=max_tokens, block_size=block_size)
    for num_tokens, num_sequences, seconds in steps:
        pace.note_step(max(num_tokens, num_sequences), num_sequences, seconds)
        for alone in (False, True):
            assert min(max_tokens, running + block_size) <= pace.tokens(running, alone=alone) <= max_tokens


def test_a_step_that_ran_out_of_memory_is_followed_by_shorter_ones():
    """Half as long, and again if need be, down to a block; longer ones come back once many have fitted."""
    pace = StepPace(0.0, max_tokens=2048, block_size=16)
    assert pace.tokens(10, alone=False) == 2048
    assert pace.shorten(2000) == 1000
    assert pace.tokens(10, alone=True) == 1000
    assert pace.shorten(1000) == 500
    for _ in range(STEPS_UNTIL_LONGER):
        assert pace.tokens(10, alone=False) == 500
        pace.note_step(500, 500, 0.01)
    assert pace.tokens(10, alone=False) == 1000
    for _ in range(5 * STEPS_UNTIL_LONGER):
        pace.note_step(500, 500, 0.01)
    assert pace.tokens(10, alone=False) == 2048
    assert [pace.shorten(20) for _ in range(2)] == [16, 16]


def test_a_paced_step_that_ran_out_of_memory_is_followed_by_shorter_ones():
    """Whatever the clock would allow."""
    pace = StepPace(LONGEST, max_tokens=2048, block_size=16)
    for _ in range(8):
        pace.note_step(2048, 1, 0.001)
    assert pace.tokens(0, alone=False) == 2048
    pace.shorten(2048)
    pace.note_step(1024, 1, 0.001)
    assert pace.tokens(0, alone=False) == 1024


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_requests_of_a_step_that_did_not_fit_end_well_in_shorter_ones(error):
    """A machine that holds steps of 40 tokens: nothing fails, and what is drawn is what fits anyway."""

    tried = []

    class Small(FakeExecutor):
        def submit(self, step: SchedulerOutput) -> StepHandle:
            tried.append(step.total_tokens)
            if step.total_tokens > 40:
                raise error
            return super().submit(step)

    core = core_over(Small(), spare_bytes=4000, max_num_seqs=8, max_num_batched_tokens=64, max_step_seconds=0.0)
    ends = {}
    for i in range(6):
        core.add(request(f"r{i}", 30, 8))
    while core.has_work:
        for output in core.step():
            if output.finish_reason:
                ends[output.request_id] = output.finish_reason
    assert ends == {f"r{i}": "length" for i in range(6)}
    assert sum(tokens > 40 for tokens in tried) == 1, "the first one alone"
