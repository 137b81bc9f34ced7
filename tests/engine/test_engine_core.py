"""The engine core over a fake executor: its start, its steps, and failures that end one request alone."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.memory_limit import MemoryLimit
from octavo_engine.core.outputs import SchedulerOutput
from octavo_engine.engine import kv_sizing
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import ConfigError, DeviceLostError
from octavo_engine.messages import EngineOutput, EngineRequest
from octavo_engine.sampling_params import SamplingParams

GIB = 1 << 30


def request(name: str, prompt: list[int], max_tokens: int = 6, **fields) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens, **fields.pop("sampling", {}))
    return EngineRequest(request_id=name, prompt_token_ids=prompt, sampling=sampling, arrival_time=0.0, **fields)


def run(core: EngineCore, before: list[EngineOutput] | None = None) -> dict[str, tuple[list[int], str]]:
    """Run to the end: tokens and reason of each; `before` has come out already."""
    tokens: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    for output in before or []:
        tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
    for _ in range(1000):
        if not core.has_work:
            return {name: (tokens[name], reasons[name]) for name in tokens}
        for output in core.step():
            tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
            if output.finish_reason:
                assert output.request_id not in reasons
                reasons[output.request_id] = output.finish_reason
        core.check()
    raise AssertionError("no end")


def alone(prompt: list[int], max_tokens: int = 6) -> tuple[list[int], str]:
    return lonely_run(prompt, SamplingParams(max_tokens=max_tokens), max_model_len=64, vocab_size=50)


def config(**fields) -> EngineConfig:
    model = ModelConfig(model="fake", served_model_names=("fake",), max_model_len=fields.pop("max_model_len", 64))
    scheduler = SchedulerConfig(max_num_seqs=fields.pop("max_num_seqs", 8), max_num_batched_tokens=32)
    return EngineConfig(model=model, cache=CacheConfig(block_size=4, **fields), scheduler=scheduler)


@pytest.mark.parametrize("how", ["at once", "submit", "sample", "error"])
@pytest.mark.parametrize("after", [0, 2])
def test_request_that_raises_inside_a_step_fails_alone(how, after) -> None:
    """The others get the tokens that they would have got without it, those that share its prompt too."""
    executor = FakeExecutor()
    core = core_over(executor)
    prompts = {name: [*range(9), i] for i, name in enumerate("abcd")}
    for name, prompt in prompts.items():
        core.add(request(name, prompt))
    before = [output for _ in range(after) for output in core.step()]
    executor.fails["b"] = how
    results = run(core, before)
    for name, prompt in prompts.items():
        if name in executor.fails:
            assert results[name][1] == "error"
        else:
            assert results[name] == alone(prompt)
    assert core.stats().kv_usage == 0


@pytest.mark.parametrize("how", ["submit", "error"])
def test_blocks_that_a_failed_request_should_have_filled_are_not_shared(how) -> None:
    """Neither by those of the same step, who are recomputed, nor later."""
    executor = FakeExecutor()
    core = core_over(executor)
    executor.fails["a"] = how
    core.add(request("a", list(range(13))))
    core.add(request("b", [*range(12), 20]))
    core.add(request("c", [*range(8), 21, 22, 23, 24, 25]))
    core.add(request("d", [*range(8), 21, 22, 23, 24, 26]))
    outputs = core.step()
    assert [(o.request_id, o.finish_reason) for o in outputs] == [("a", "error")]
    executor.fails.clear()
    core.add(request("e", list(range(13))))
    results = run(core)
    for name, prompt in {
        "b": [*range(12), 20],
        "c": [*range(8), 21, 22, 23, 24, 25],
        "d": [*range(8), 21, 22, 23, 24, 26],
        "e": list(range(13)),
    }.items():
        assert results[name] == alone(prompt), name


def test_executor_gets_finished_requests_although_a_step_fails() -> None:
    """Be it before it took anything in: their ids come again with the next step."""
    executor = FakeExecutor()
    core = core_over(executor)
    core.add(request("a", [1, 2, 3]))
    core.step()
    core.abort(["a"])
    core.add(request("b", [4, 5, 6]))
    executor.fails["b"] = "at once"
    run(core)
    assert "a" in executor.states
    core.add(request("a", [7, 8]))
    assert run(core) == {"a": alone([7, 8])}


def test_step_too_large_for_memory_is_done_in_parts() -> None:
    """No request ends, as long as each fits alone."""
    executor = FakeExecutor(max_tokens_at_once=12)
    core = core_over(executor)
    prompts = {name: [i] * 10 for i, name in enumerate("abc")}
    for name, prompt in prompts.items():
        core.add(request(name, prompt))
    assert run(core) == {name: alone(prompt) for name, prompt in prompts.items()}


def test_abort_within_a_step_that_fails() -> None:
    """An aborted request ends once, and its blocks are its own while the others are tried."""
    executor = FakeExecutor()
    core = core_over(executor)
    prompts = {name: [*range(9), i] for i, name in enumerate("abc")}
    for name, prompt in prompts.items():
        core.add(request(name, prompt))
    executor.fails["c"] = "submit"
    executor.on_submit = lambda step: core.abort(["a"])
    results = run(core)
    assert results["a"] == ([], "abort")
    assert results["b"] == alone(prompts["b"])
    assert results["c"][1] == "error"


def test_lost_device_ends_the_process() -> None:
    """Nothing in it can be trusted any more."""
    executor = FakeExecutor()
    core = core_over(executor)
    core.add(request("a", [1, 2, 3]))

    def lose(step) -> None:
        raise DeviceLostError("gone")

    executor.on_submit = lose
    with pytest.raises(DeviceLostError, match="gone"):
        core.step()


def test_refused_request_speaks_through_step() -> None:
    """`add` never raises; the core has work until it has said why."""
    core = core_over(FakeExecutor())
    core.add(request("empty", []))
    core.add(request("long", [1] * 64))
    assert core.has_work
    assert {o.request_id: o.finish_reason for o in core.step()} == {"empty": "error", "long": "error"}
    assert not core.has_work
    assert core.step() == []


@pytest.mark.parametrize(
    ("prompt", "sampling", "field"),
    [
        ([50], {}, "the prompt"),
        ([1], {"logit_bias": {50: 1.0}}, "logit_bias"),
        ([1], {"logit_bias": {-1: 1.0}}, "logit_bias"),
        ([1], {"allowed_token_ids": (3, 99)}, "allowed_token_ids"),
        ([1], {"stop_token_ids": (50,)}, "stop_token_ids"),
        ([1], {"bad_words": ((1, 2), (50,))}, "bad_words"),
    ],
)
def test_token_outside_of_the_vocabulary_is_refused(prompt, sampling, field) -> None:
    """With the field that holds it."""
    spec = SimpleNamespace(vocab_size=50, max_position=64)
    core = EngineCore(config(kv_cache_memory_bytes=1000), FakeExecutor(), spec)
    core.add(request("a", prompt, sampling=sampling))
    (output,) = core.step()
    assert output.error.startswith(field)


def test_prefix_cache_can_be_forgotten() -> None:
    """The next request computes everything again."""
    core = core_over(FakeExecutor())
    for name in ("a", "b"):
        core.add(request(name, list(range(9)), 1))
        run(core)
    assert core.stats().prefix_cache_hits == 8
    core.reset_prefix_cache()
    core.add(request("c", list(range(9)), 1))
    run(core)
    assert core.stats().prefix_cache_hits == 8


def test_start_reports_its_stages_and_its_result() -> None:
    """For the server, and for a person who waits."""
    stages = []
    executor = FakeExecutor(block_bytes=1 << 20)
    core = EngineCore(
        config(kv_cache_memory_bytes=1 << 30), executor, on_stage=lambda stage, seconds: stages.append(stage)
    )
    ready = core.ready()
    assert stages == [stage for stage, _ in ready.stages] == ["loaded the weights", "allocated 0.13 GiB of KV blocks"]
    assert ready.num_blocks == list(executor.num_blocks) == [129]  # eight sequences of 16 blocks, and the null block
    assert ready.kv_cache_bytes == 129 << 20
    assert (ready.block_size, ready.max_model_len, ready.executor) == (4, 64, "fake")
    core.close()
    assert executor.closed


def test_length_is_the_models_own_by_default() -> None:
    """Memory may allow less, and then the engine says so."""
    spec = SimpleNamespace(vocab_size=50, max_position=100)
    core = EngineCore(config(kv_cache_memory_bytes=1000, max_model_len=None), FakeExecutor(), spec)
    assert core.max_model_len == 100


def test_length_that_does_not_fit_is_cut_and_said(caplog) -> None:
    """With both lengths and the flag that would change it."""
    spec = SimpleNamespace(vocab_size=50, max_position=100)
    with caplog.at_level(logging.WARNING):
        core = EngineCore(config(kv_cache_memory_bytes=11, max_model_len=None), FakeExecutor(), spec)
    assert core.max_model_len == 40
    assert "context is 100 tokens, and KV blocks for 40 fit" in caplog.text


def test_length_beyond_the_models_own_is_refused() -> None:
    """Positions that the model has never seen."""
    spec = SimpleNamespace(vocab_size=50, max_position=40)
    with pytest.raises(ConfigError, match="--max-model-len 64 is more than the 40 tokens"):
        EngineCore(config(kv_cache_memory_bytes=1000), FakeExecutor(), spec)


def test_override_sets_the_number_of_blocks() -> None:
    """The override ignores the memory; the length follows it where no flag sets one."""
    executor = FakeExecutor()
    EngineCore(config(num_gpu_blocks_override=33), executor)
    assert executor.num_blocks == (33,)
    spec = SimpleNamespace(vocab_size=50, max_position=100)
    core = EngineCore(config(num_gpu_blocks_override=11, max_model_len=None), FakeExecutor(), spec)
    assert core.max_model_len == 40


def test_executors_capacity_counts_where_the_user_said_nothing() -> None:
    """A GPU reports the memory that it has left."""
    executor = FakeExecutor(kv_bytes=20 << 20, block_bytes=1 << 20)
    EngineCore(config(), executor)
    assert executor.num_blocks == (20,)
    assert executor.num_host_blocks == (4096 + 1,)  # and it has 4 GiB of host memory beside it


@pytest.mark.parametrize(
    ("limit", "available", "ranks", "expected"),
    [
        (MemoryLimit(limit=10 * GIB, used=2 * GIB), 0, 1, int(10 * GIB * 0.92) - 3 * GIB),
        (MemoryLimit(limit=10 * GIB, used=2 * GIB), 0, 4, (int(10 * GIB * 0.92) - 6 * GIB) // 4),
        (MemoryLimit(limit=10 * GIB, used=0), 0, 1, int(10 * GIB * 0.92) - 6 * GIB),
        (None, 100 * GIB, 1, 4 * GIB),
        (None, 100 * GIB, 2, 2 * GIB),
        (None, 8 * GIB, 1, 2 * GIB),
        (None, 0, 1, 4 * GIB),
    ],
)
def test_memory_on_a_cpu_is_the_containers_or_modest(monkeypatch, limit, available, ranks, expected) -> None:
    """A container's limit counts without what is taken and each rank's swap space, and its ranks share it."""
    monkeypatch.setattr(kv_sizing, "container_limit", lambda: limit)
    monkeypatch.setattr(kv_sizing, "available_memory", lambda: available)
    weights = 5 * GIB if limit and not limit.used else 0
    capacity = SimpleNamespace(kv_bytes=None, weight_bytes=weights, sharers=ranks)
    assert kv_sizing.kv_bytes_of(config(), capacity, 1 * GIB) == expected


def test_container_with_nothing_left_says_so(monkeypatch) -> None:
    """With the numbers and what to do."""
    monkeypatch.setattr(kv_sizing, "container_limit", lambda: MemoryLimit(limit=GIB, used=GIB))
    with pytest.raises(ConfigError, match=r"limit is 1.00 GiB, of which --gpu-memory-utilization allows 92%"):
        EngineCore(config(), FakeExecutor())


@pytest.mark.parametrize("swap_bytes", [0, 100])
def test_sequence_that_was_preempted_while_its_step_failed_starts_again(swap_bytes: int) -> None:
    """The last token of `a` is in flight, and `b`, beside it in that step, has lost its blocks when the step is lost."""
    executor = FakeExecutor(asynchronous=True)
    core = core_over(executor, max_model_len=16, spare_bytes=0, swap_bytes=swap_bytes, max_num_batched_tokens=32)
    core.add(request("a", [1, 2, 3, 4, 5], max_tokens=4))
    core.add(request("b", [6, 7, 8, 9, 10], max_tokens=6))

    def lose_the_last_of_a(step: SchedulerOutput) -> None:
        if step.step_id == 4:
            executor.fails["a"] = "collect"

    executor.on_submit = lose_the_last_of_a
    ended = run(core)
    assert core.stats().num_preemptions == 1
    assert ended["a"][1] == "error"
    assert ended["b"] == alone([6, 7, 8, 9, 10])


def test_blocks_that_were_promised_are_touched_at_the_start(monkeypatch) -> None:
    """A guessed size is taken as it is used: the plan does not count on it."""
    monkeypatch.setattr(kv_sizing, "container_limit", lambda: None)
    guessed, said, limited = FakeExecutor(), FakeExecutor(), FakeExecutor()
    EngineCore(config(), guessed)
    EngineCore(config(kv_cache_memory_bytes=1000), said)
    monkeypatch.setattr(kv_sizing, "container_limit", lambda: MemoryLimit(GIB, 0))
    EngineCore(config(), limited)
    assert (guessed.touched, said.touched, limited.touched) == (False, True, True)


def test_blocks_that_no_memory_is_there_for_are_refused_before_they_are_touched(monkeypatch) -> None:
    """The kernel would kill the process, and it would have no words for it."""
    executor = FakeExecutor(block_bytes=GIB)
    monkeypatch.setattr(kv_sizing, "container_limit", lambda: MemoryLimit(8 * GIB, 0))
    with pytest.raises(ConfigError, match=r"container's limit is 8.00 GiB.*--kv-cache-memory-bytes"):
        EngineCore(config(kv_cache_memory_bytes=40 * GIB), executor)
    monkeypatch.setattr(kv_sizing, "container_limit", lambda: None)
    monkeypatch.setattr(kv_sizing, "available_memory", lambda: 8 * GIB)
    with pytest.raises(ConfigError, match=r"this machine has 8.00 GiB available"):
        EngineCore(config(kv_cache_memory_bytes=40 * GIB), executor)
    assert not executor.touched


def test_choices_of_one_request_share_their_long_lists() -> None:
    """Each choice comes as a request of its own, with a copy; a million ids are held once, not a hundred times."""
    executor = FakeExecutor()
    core = core_over(executor)
    for name in "abc":
        copies = {"allowed_token_ids": tuple(range(3, 6)), "bad_words": (tuple(range(2)),), "logit_bias": {7: 1.0}}
        core.add(request(name, [1, 2, 3], sampling=copies if name != "c" else {**copies, "allowed_token_ids": (6,)}))
    core.step()
    a, b, c = (executor.states[name].sampling for name in "abc")
    for name in copies:
        assert getattr(a, name) is getattr(b, name)
    assert c.allowed_token_ids == (6,)
    assert c.bad_words is a.bad_words
