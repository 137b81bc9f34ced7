"""Preempted sequences in host memory: when it pays, what is kept, and that nothing of it is lost or trusted too far."""

from __future__ import annotations

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.core.swapping import HostBlocks, SwapRule
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

MAX_TOKENS = 30


def request(name: str, prompt: list[int]) -> EngineRequest:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True)
    return EngineRequest(request_id=name, prompt_token_ids=prompt, sampling=sampling, arrival_time=0.0)


PROMPTS = {"a": list(range(1, 13)), "b": list(range(20, 32)), "c": list(range(33, 47))}


def run(core: EngineCore, executor: FakeExecutor) -> dict[str, list[int]]:
    """All to the end, blocks checked after each step."""
    for name, prompt in PROMPTS.items():
        core.add(request(name, prompt))
    tokens: dict[str, list[int]] = {name: [] for name in PROMPTS}
    for _ in range(500):
        for output in core.step():
            assert output.error is None
            tokens[output.request_id] += output.new_token_ids
        core.check()
        if not core.has_work:
            return tokens
    raise AssertionError("it does not end")


def scarce(windows: tuple[int | None, ...], swap_bytes: int, **more) -> tuple[EngineCore, FakeExecutor]:
    executor = FakeExecutor(windows=windows)
    core = core_over(
        executor, max_model_len=48, spare_bytes=8, swap_bytes=swap_bytes, caching=False, max_num_seqs=3, **more
    )
    return core, executor


def computed(executor: FakeExecutor) -> int:
    return sum(step.total_tokens for step in executor.steps)


@pytest.mark.parametrize("windows", [(None,), (None, 9)])
def test_what_was_swapped_out_is_not_computed_again(windows) -> None:
    """Each token is computed once, and every request gets what it would have got alone."""
    core, executor = scarce(windows, swap_bytes=200)
    tokens = run(core, executor)
    assert core.stats().num_preemptions > 0
    assert computed(executor) == sum(len(p) + MAX_TOKENS - 1 for p in PROMPTS.values())
    for name, prompt in PROMPTS.items():
        sampling = SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True)
        assert tokens[name] == lonely_run(prompt, sampling, max_model_len=48, vocab_size=50)[0]


def test_without_swap_space_it_is_computed_again() -> None:
    """The twin of the test above: the same load without host memory costs more tokens."""
    core, executor = scarce((None,), swap_bytes=0)
    run(core, executor)
    assert core.stats().num_preemptions > 0
    assert computed(executor) > sum(len(p) + MAX_TOKENS - 1 for p in PROMPTS.values())


def test_a_full_swap_space_leaves_the_rest_to_be_computed_again() -> None:
    """Two blocks of host memory fit no request; all end well anyway."""
    core, executor = scarce((None,), swap_bytes=2)
    before = executor.num_moved
    run(core, executor)
    assert core.stats().num_preemptions > 0
    assert executor.num_moved == before


def test_an_aborted_request_gives_its_swap_space_back() -> None:
    """Swap space comes back from a waiting request too; `check` would find a block that is lost."""
    core, _ = scarce((None,), swap_bytes=200)
    for name, prompt in PROMPTS.items():
        core.add(request(name, prompt))
    for _ in range(100):
        core.step()
        if core.stats().num_swapped:
            break
    assert core.stats().num_swapped
    assert core.stats().swap_usage > 0
    core.abort(PROMPTS)
    core.step()
    core.check()
    assert core.stats().num_swapped == core.stats().swap_usage == 0


@pytest.mark.parametrize("moves", ["swap_out", "swap_in"])
@pytest.mark.parametrize("caching", [True, False])
def test_blocks_of_a_step_that_failed_as_a_whole_are_not_trusted(moves, caching) -> None:
    """The failure comes in the very step that moves blocks; tokens stay those of a lonely run."""
    executor = FakeExecutor(windows=(None, 9))
    core = core_over(executor, max_model_len=48, spare_bytes=8, swap_bytes=200, caching=caching, max_num_seqs=3)
    failed = []

    def fail_once(step) -> None:
        if getattr(step.kv_ops, moves) and not failed:
            failed.append(step.step_id)
            raise RuntimeError("the copy engine is on fire")

    executor.on_submit = fail_once
    tokens = run(core, executor)
    assert failed
    for name, prompt in PROMPTS.items():
        sampling = SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True)
        assert tokens[name] == lonely_run(prompt, sampling, max_model_len=48, vocab_size=50)[0]


def test_the_rule_swaps_what_is_quicker_to_move_than_to_compute() -> None:
    """Seconds a block against seconds a token, both measured; before a telling step has been seen it swaps."""
    rule = SwapRule([0.001, 0.01])
    assert rule.pays(1, [100, 100])
    rule.note_step(10, 99.0)  # too small a step to measure
    assert rule.pays(1, [100, 100])
    rule.note_step(1000, 1.0)  # a millisecond a token
    assert rule.pays(100, [10, 5])  # 60 ms against 100
    assert not rule.pays(100, [60, 5])  # 110 ms against 100
    for _ in range(50):
        rule.note_step(1000, 0.1)
    assert not rule.pays(100, [10, 5])  # 60 ms against 10


def test_a_step_moves_no_more_than_it_may() -> None:
    """What would take longer is computed again, in chunks; what comes back waits for the next step."""
    rule = SwapRule([0.001, 0.01], max_step_seconds=0.5)
    assert rule.fits([100, 40])
    assert not rule.fits([100, 41])
    assert SwapRule([1.0]).fits([10_000]), "without a bound on steps"
    most = []
    for longest in (0.0, 0.5):
        core, executor = scarce((None,), swap_bytes=200)
        core._scheduler.block_manager._rule = SwapRule([0.05], max_step_seconds=longest)
        tokens = run(core, executor)
        most.append(max(len(step.kv_ops.swap_in) + len(step.kv_ops.swap_out) for step in executor.steps))
        assert all(len(found) == MAX_TOKENS for found in tokens.values())
    assert most[0] > 10 >= most[1] > 0, most


def test_host_blocks_are_given_whole_or_not_at_all() -> None:
    """A holder gets blocks of all groups or of none."""
    host = HostBlocks((4, 3))
    assert host.take([3, 3]) is None
    held = host.take([3, 2])
    assert held is not None
    assert host.usage == 1.0
    assert host.num_holders == 1
    assert host.take([1, 0]) is None
    host.check()
    host.release(held)
    assert host.usage == 0
    host.check()
