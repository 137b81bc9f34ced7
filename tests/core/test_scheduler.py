"""Schedules by order, budget, chunks, preemption and ends. Driven step by step with made-up tokens."""

from __future__ import annotations

import sys

from octavo_engine.config import SchedulerConfig
from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.core.scheduler import Scheduler
from octavo_engine.messages import EngineOutput, EngineRequest, TokenLogprob
from octavo_engine.sampling_params import SamplingParams
from octavo_models.spec import KVGroup, KVLayout

TOKEN = 9


def scheduler(*, blocks: int = 100, max_model_len: int = 200, caching: bool = True, **config) -> Scheduler:
    """Blocks of four tokens in one full group."""
    layout = KVLayout(4, (KVGroup("full", (0,), 1),))
    return Scheduler(
        SchedulerConfig(**({"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_step_seconds": 0.0} | config)),
        layout,
        (blocks + 1,),
        max_model_len=max_model_len,
        enable_prefix_caching=caching,
    )


def request(name: str, prompt: int | list[int], max_tokens: int = 5, *, priority: int = 0, **sampling) -> EngineRequest:
    """A prompt that no other request shares, if only its length is given."""
    tokens = [ord(name[-1]) * 1000 + i for i in range(prompt)] if isinstance(prompt, int) else prompt
    return EngineRequest(
        request_id=name,
        prompt_token_ids=tokens,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),
        arrival_time=0.0,
        priority=priority,
    )


def step(core: Scheduler, token: int = TOKEN) -> tuple[SchedulerOutput, list[EngineOutput]]:
    """Run one step in which every request that may draws `token`."""
    made = core.schedule()
    assert made is not None
    outputs = core.update(StepOutput(made.step_id, {r: [token] for r in made.samples}))
    core.block_manager.check()
    return made, core.requests.take_outputs() + outputs


def run(core: Scheduler) -> dict[str, EngineOutput]:
    """Run to the end; the last output of each request."""
    last = {}
    for _ in range(1000):
        if not core.requests.has_work:
            return last
        made = core.schedule()
        outputs = core.update(StepOutput(made.step_id, {r: [TOKEN] for r in made.samples})) if made else []
        last |= {o.request_id: o for o in core.requests.take_outputs() + outputs if o.finish_reason}
    raise AssertionError("no end")


def test_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    """The running request keeps its token a step; the prompt takes what is left, and draws once it is whole."""
    core = scheduler()
    core.add(request("a", 10))
    step(core)
    core.add(request("b", 50))
    made, _ = step(core)
    assert made.num_scheduled_tokens == {"a": 1, "b": 31}
    assert made.samples == {"a"}
    assert made.logits_wanted == {"a": 1}
    made, _ = step(core)
    assert made.num_scheduled_tokens == {"a": 1, "b": 19}
    assert made.samples == {"a", "b"}


def test_without_chunks_a_prompt_waits_for_a_step_that_takes_it_whole() -> None:
    """No later prompt overtakes it meanwhile."""
    core = scheduler(enable_chunked_prefill=False)
    core.add(request("a", 10, 2))
    core.add(request("b", 32))
    core.add(request("c", 2))
    assert step(core)[0].num_scheduled_tokens == {"a": 10}
    assert step(core)[0].num_scheduled_tokens == {"a": 1}
    assert step(core)[0].num_scheduled_tokens == {"b": 32}


def test_without_chunks_a_prompt_beyond_the_budget_is_refused() -> None:
    """Accepted, it would wait forever."""
    core = scheduler(enable_chunked_prefill=False)
    core.add(request("a", 33))
    (output,) = core.requests.take_outputs()
    assert output.finish_reason == "error"
    assert "without chunked prefill a step takes 32" in output.error
    assert not core.requests.has_work


def test_without_chunks_a_preempted_request_may_outgrow_the_budget_and_still_end() -> None:
    """The prompt fitted a step; prompt and output no longer do, so they are recomputed in parts."""
    core = scheduler(enable_chunked_prefill=False, blocks=14, caching=False)
    core.add(request("a", 2, 40))
    core.add(request("b", 30, 20))
    last = run(core)
    assert {name: output.finish_reason for name, output in last.items()} == {"a": "length", "b": "length"}
    assert last["b"].num_preemptions > 0


def test_no_more_requests_run_than_allowed() -> None:
    """The others wait in order of arrival."""
    core = scheduler(max_num_seqs=2)
    for name in "abc":
        core.add(request(name, 3, 2))
    assert list(step(core)[0].num_scheduled_tokens) == ["a", "b"]
    stats = core.stats()
    assert (stats.num_running, stats.num_waiting, stats.iteration_tokens) == (2, 1, [8])
    step(core)
    assert list(step(core)[0].num_scheduled_tokens) == ["c"]


def test_last_come_is_preempted_first_and_resumes_before_later_ones() -> None:
    """A resumed request is sent again with whole tables, which replace the old ones, and keeps what it has drawn."""
    core = scheduler(blocks=4, caching=False)
    core.add(request("a", 7, 5))
    core.add(request("b", 7, 5))
    step(core)
    step(core)
    core.add(request("c", 1, 1))
    made, _ = step(core)  # both need a third block
    assert list(made.num_scheduled_tokens) == ["a"]
    assert core.stats().num_preemptions == 1
    made = step(core)[0]
    while "b" not in made.num_scheduled_tokens:
        assert "c" not in made.num_scheduled_tokens
        made = step(core)[0]
    resumed = next(r for r in made.continued if r.request_id == "b")
    assert resumed.resumed
    assert resumed.num_computed_tokens == 0
    assert len(resumed.block_ids[0]) == 3
    assert made.num_scheduled_tokens["b"] == 9
    assert "b" not in [r.request_id for r in made.new]
    assert run(core)["b"].num_preemptions == 1


def test_lower_priority_waits_and_is_preempted() -> None:
    """A lower number runs first; ties go by arrival."""
    core = scheduler(blocks=4, caching=False, policy="priority")
    core.add(request("a", 7, 5, priority=1))
    step(core)
    core.add(request("b", 7, 5, priority=2))
    core.add(request("c", 7, 5, priority=0))
    assert list(step(core)[0].num_scheduled_tokens) == ["a", "c"]
    assert list(step(core)[0].num_scheduled_tokens) == ["c"]  # both need a block: "a" goes, though it came first
    last = run(core)
    assert last["a"].num_preemptions == 1
    assert last["c"].num_preemptions == 0
    assert last["b"].finish_reason == "length"


def test_priority_is_ignored_under_fcfs() -> None:
    """The policy decides."""
    core = scheduler(max_num_seqs=1)
    core.add(request("a", 3, priority=5))
    core.add(request("b", 3, priority=0))
    assert list(step(core)[0].num_scheduled_tokens) == ["a"]


def test_no_request_is_admitted_in_a_step_that_preempts() -> None:
    """Blocks have just run out."""
    core = scheduler(blocks=5, caching=False)
    core.add(request("a", 7, 9))
    core.add(request("b", 11, 9))
    step(core)
    core.add(request("c", 1))
    step(core)
    made, _ = step(core)
    assert list(made.num_scheduled_tokens) == ["a"]
    assert core.stats().num_preemptions == 1


def test_long_prompt_of_higher_priority_leaves_the_others_their_token() -> None:
    """One token each is kept for those behind it."""
    core = scheduler(policy="priority")
    core.add(request("a", 4, 20, priority=1))
    core.add(request("b", 4, 20, priority=1))
    step(core)
    core.add(request("c", 90, priority=0))
    assert step(core)[0].num_scheduled_tokens == {"a": 1, "b": 1, "c": 30}
    assert step(core)[0].num_scheduled_tokens == {"c": 30, "a": 1, "b": 1}


def test_request_that_alone_outgrows_the_blocks_ends_with_the_reason() -> None:
    """Preempting itself would be a livelock."""
    core = scheduler(blocks=2)
    core.add(request("a", 7, 50))
    core.add(request("b", 3, 2))
    last = run(core)
    assert last["a"].finish_reason == "error"
    assert "9 tokens do not fit the KV cache, which has [2] blocks of 4 tokens" in last["a"].error
    assert last["b"].finish_reason == "length"


def test_prompt_that_never_fits_the_blocks_ends_with_the_reason() -> None:
    """The requests behind it go on."""
    core = scheduler(blocks=2)
    core.add(request("a", 9))
    core.add(request("b", 3, 2))
    last = run(core)
    assert last["a"].finish_reason == "error"
    assert last["b"].finish_reason == "length"


def test_blocks_filled_in_a_step_are_shared_within_it() -> None:
    """The executor writes before it reads."""
    core = scheduler()
    core.add(request("a", list(range(9))))
    core.add(request("b", [*range(8), 99]))
    made, outputs = step(core)
    assert made.num_scheduled_tokens == {"a": 9, "b": 1}
    first, second = made.new
    assert first.block_ids[0][:2] == second.block_ids[0][:2]
    assert [o.num_cached_tokens for o in outputs] == [0, 8]
    stats = core.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (18, 8)


def test_output_of_one_request_is_the_next_ones_prefix() -> None:
    """A chat that goes on finds its last turn."""
    core = scheduler()
    core.add(request("a", 6, 7))
    run(core)
    core.add(request("b", [97_000 + i for i in range(6)] + [TOKEN] * 7))
    made, _ = step(core)
    assert made.new[0].num_computed_tokens == 12


def test_ends_by_eos_stop_token_or_length() -> None:
    """EOS is not named, another stop token is; the token itself is in the output."""
    core = scheduler(max_model_len=12)
    core.add(request("eos", 3, eos_token_ids=(TOKEN,)))
    core.add(request("stop", 3, stop_token_ids=(TOKEN,), eos_token_ids=(1,)))
    core.add(request("ignored", 3, 2, eos_token_ids=(TOKEN,), ignore_eos=True))
    core.add(request("long", 10, 50))
    last = run(core)
    assert (last["eos"].finish_reason, last["eos"].stop_token_id) == ("stop", None)
    assert last["eos"].new_token_ids == [TOKEN]
    assert (last["stop"].finish_reason, last["stop"].stop_token_id) == ("stop", TOKEN)
    assert last["ignored"].finish_reason == "length"
    assert last["long"].finish_reason == "length"
    assert core.block_manager.usage == 0


def test_stop_tokens_do_not_count_before_min_tokens() -> None:
    """The executor bans them; one that comes anyway does not end the request."""
    core = scheduler()
    core.add(request("a", 3, 9, eos_token_ids=(TOKEN,), min_tokens=3))
    assert [step(core)[1][0].finish_reason for _ in range(3)] == [None, None, "stop"]


def test_request_for_no_token_ends_with_its_prompt() -> None:
    """With its prompt's log-probabilities, if it wanted them."""
    core = scheduler()
    core.add(request("a", 3, 0, prompt_logprobs=0))
    made = core.schedule()
    assert made.samples == frozenset()
    assert made.logits_wanted == {"a": 3}
    entries = [TokenLogprob(1, -1.0, 1, []), TokenLogprob(2, -1.0, 1, [])]
    (output,) = core.update(StepOutput(made.step_id, {}, prompt_logprobs={"a": entries}))
    assert output.finish_reason == "length"
    assert output.prompt_logprobs == [None, *entries]


def test_prompt_logprobs_are_whole_across_chunks_and_a_preemption() -> None:
    """Log-probabilities come in parts, a step's each; what is computed again after a preemption does not come again."""
    core = scheduler(blocks=5, caching=False, max_num_batched_tokens=6)
    core.add(request("a", 3, 10))
    core.add(request("b", 16, 3, prompt_logprobs=0))
    seen: list = []
    for _ in range(60):
        if not core.requests.has_work:
            break
        made = core.schedule()
        chunks = {}
        for r in (*made.new, *made.continued):
            if r.request_id == "b" and made.logits_wanted.get("b", 0):
                first = r.num_computed_tokens
                known = range(first + 1, min(first + made.num_scheduled_tokens["b"] + 1, 16))
                if made.logits_wanted["b"] == made.num_scheduled_tokens["b"]:
                    chunks["b"] = [TokenLogprob(p, -1.0, 1, []) for p in known]
        outputs = core.update(StepOutput(made.step_id, {r: [TOKEN] for r in made.samples}, prompt_logprobs=chunks))
        seen += [o.prompt_logprobs for o in outputs if o.prompt_logprobs is not None]
    assert len(seen) > 2
    assert max(map(len, seen)) <= 7, "those of a step, and None for the first token"
    entries = [entry for part in seen for entry in part]
    assert [entry and entry.token_id for entry in entries] == [None, *range(1, 16)]
    assert core.stats().num_preemptions == 1
    assert not core.requests.has_work


def test_more_tokens_in_a_step_than_wanted_are_cut_at_the_end() -> None:
    """An executor that drafts may draw several."""
    core = scheduler()
    core.add(request("a", 3, 9, eos_token_ids=(5,)))
    made = core.schedule()
    entries = [TokenLogprob(t, -1.0, 1, []) for t in (4, 5, 6)]
    (output,) = core.update(StepOutput(made.step_id, {"a": [4, 5, 6]}, logprobs={"a": entries}))
    assert output.new_token_ids == [4, 5]
    assert output.logprobs == entries[:2]
    assert output.finish_reason == "stop"


def test_abort_reaches_a_request_wherever_it_stands() -> None:
    """Waiting, running, or in the step in flight; it ends once, and its blocks come back."""
    core = scheduler(max_num_seqs=2)
    for name in "abc":
        core.add(request(name, 5))
    made = core.schedule()
    for name in ("a", "c", "c", "nobody"):
        core.requests.abort(name)
    assert [(o.request_id, o.finish_reason) for o in core.requests.take_outputs()] == [("a", "abort"), ("c", "abort")]
    outputs = core.update(StepOutput(made.step_id, {"a": [1], "b": [2]}))
    assert [o.request_id for o in outputs] == ["b"]
    made, _ = step(core)
    assert made.finished_ids == ("a",)  # the executor has never heard of "c"
    core.requests.abort("b")
    assert core.block_manager.usage == 0
    assert core.schedule() is None


def test_id_can_be_used_again_once_its_request_has_ended() -> None:
    """The executor is given both in one step."""
    core = scheduler()
    core.add(request("a", 5))
    step(core)
    core.requests.abort("a")
    core.add(request("a", 5))
    made, _ = step(core)
    assert made.finished_ids == ("a",)
    assert [r.request_id for r in made.new] == ["a"]


def test_id_in_use_ends_both_requests() -> None:
    """Their outputs could not be separated: one error, and silence."""
    core = scheduler()
    core.add(request("a", 5))
    step(core)
    core.add(request("a", 6))
    (output,) = core.requests.take_outputs()
    assert output.finish_reason == "error"
    assert "in use" in output.error
    assert not core.requests.has_work
    assert core.block_manager.usage == 0


def test_prompt_that_leaves_no_room_is_refused() -> None:
    """Empty ones too, and ids that are no tokens; each says what to do."""
    core = scheduler(max_model_len=10)
    core.add(request("long", 10))
    core.add(request("empty", []))
    core.add(request("negative", [-1]))
    core.add(request("huge", [1 << 32]))
    errors = {o.request_id: o.error for o in core.requests.take_outputs()}
    assert "10 tokens and the model's context 10" in errors["long"]
    assert "empty" in errors["empty"]
    assert "outside" in errors["negative"]
    assert "outside" in errors["huge"]
    assert not core.requests.has_work


def test_many_aborted_while_waiting_leave_nothing_behind() -> None:
    """The queue does not keep them until they would be met."""
    core = scheduler(max_num_seqs=1)
    core.add(request("first", 3))
    step(core)
    for i in range(1000):
        core.add(request(f"r{i}", 3))
    for i in range(1000):
        core.requests.abort(f"r{i}")
    assert core.stats().num_waiting == 0
    assert len(core.requests.waiting._heap) < 200


def test_request_that_draws_nothing_where_it_should_ends() -> None:
    """An executor that breaks its word does not hang the engine."""
    core = scheduler()
    core.add(request("a", 3))
    made = core.schedule()
    (output,) = core.update(StepOutput(made.step_id, {}))
    assert output.finish_reason == "error"
    assert not core.requests.has_work


def test_decode_step_of_many_requests_costs_few_calls_each() -> None:
    """The calls of a step of 256 are counted, some twenty a request, for a clock would measure the machine."""
    core = scheduler(blocks=20_000, max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=4096)
    for i in range(256):
        core.add(request(f"r{i}", list(range(i, i + 20 + i % 4)), 1000, eos_token_ids=(2,)))
    for _ in range(20):
        step(core)
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    for _ in range(8):  # in which each request takes two new blocks
        sys.setprofile(count)
        try:
            made = core.schedule()
            assert len(made.samples) == 256
            core.update(StepOutput(made.step_id, {r: [TOKEN] for r in made.samples}))
        finally:
            sys.setprofile(None)
    assert calls < 8 * 256 * 25
