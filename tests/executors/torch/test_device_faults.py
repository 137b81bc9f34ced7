"""Errors as CUDA, Triton, cuBLAS and NCCL raise them, at every call of a step: the offender fails, or the engine ends."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import msgspec
import pytest
import torch
from gpu_faults import ERRORS, NCCL, Gpu, break_call, engine_of, small_model, with_graphs
from octavo_testing.engine_runs import generate, request
from octavo_testing.recorded_graph import GraphRecorder

from octavo_engine.core.outputs import NewRequest, SchedulerOutput, StepOutput
from octavo_engine.engine import engine_core
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import DeviceLostError
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.rehearsal import Unshared
from octavo_engine.sampling_params import SamplingParams
from octavo_models.partition import Place

# Where a step may meet one: (what is called, as an attribute of the executor)
CALLS = [
    "runner.requests.apply",
    "runner.sampler.table.update",
    "runner.cache.apply",
    "runner.decoder.forward",
    "runner.sampler.draw_step",
    "runner.sampler.score_prompts",
    "runner.graphs.run",
    "copies to the host",
]
POISON = 13
GREEDY = SamplingParams(max_tokens=4, temperature=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(model):
    """(engine, its executor, its device)."""
    return engine_of(*model)


@pytest.fixture
def engine_with_graphs(model):
    """Likewise; decodes are replayed."""
    config, spec, files = model
    return engine_of(with_graphs(config), spec, files, GraphRecorder())


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_an_error_that_the_device_survives_once_fails_no_request(engine_with_graphs, monkeypatch, call, kind):
    """The step is tried again, a request at a time."""
    core, executor, _ = engine_with_graphs
    times = iter([True])
    break_call(monkeypatch, executor, call, ERRORS[kind], when=lambda: next(times, False))
    got = generate(core, [request("a", [3, 4, 5], 3), request("b", [6, 7], 3)])
    assert {name: len(result.tokens) for name, result in got.items()} == {"a": 3, "b": 3}
    assert next(times, None) is None, "the error was met"
    assert not executor.runner._submitted
    assert not executor.runner._drawn


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_an_error_that_corrupts_the_device_ends_the_engine(engine_with_graphs, monkeypatch, call, kind):
    """Whatever its type is: the device refuses to be waited for."""
    core, executor, gpu = engine_with_graphs

    def lost():
        gpu.corrupt = True
        return True

    break_call(monkeypatch, executor, call, ERRORS[kind], when=lost)
    with pytest.raises(DeviceLostError, match=r"CUDA"):
        generate(core, [request("a", [3, 4, 5], 3)])


class Refusing:
    """An event of a stream whose wait reports `error`, and the device lost if `lost`."""

    def __init__(self, error, gpu, *, lost):
        self.error, self.gpu, self.lost = error, gpu, lost

    def synchronize(self):
        self.gpu.corrupt = self.lost
        raise self.error


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_that_shows_when_a_step_is_waited_for(model, kind, lost, asynchronous):
    """Kernels fail after their launch: the wait meets it, when the next step has been launched already."""
    config, spec, files = model
    scheduler = msgspec.structs.replace(config.scheduler, async_scheduling=asynchronous)
    config = msgspec.structs.replace(config, scheduler=scheduler)
    gpu = Gpu()
    executor = TorchExecutor(config, spec, files, torch.device("cpu"), faults=FaultWatch(gpu.synchronize))
    core = EngineCore(config, executor, spec)
    sample, third = executor.sample, iter([False, False, True])

    def sampled(handle, grammar_mask=None):
        sample(handle, grammar_mask)
        if next(third, False):
            executor.runner._drawn[handle.step_id].done = Refusing(ERRORS[kind], gpu, lost=lost)

    executor.sample = sampled
    asked = [request("a", [3, 4, 5], 6), request("b", [6, 7], 6)]
    if lost:
        with pytest.raises(DeviceLostError, match="CUDA"):
            generate(core, asked)
        return
    got = generate(core, asked)
    assert next(third, None) is None, "the error was met"
    expected = generate(EngineCore(config, TorchExecutor(config, spec, files, torch.device("cpu")), spec), asked)
    assert {name: r.tokens for name, r in got.items()} == {name: r.tokens for name, r in expected.items()}


@pytest.mark.parametrize("call", CALLS[3:])
def test_an_engine_that_can_run_nothing_any_more_ends(engine_with_graphs, monkeypatch, call):
    """The device answers, and yet every step fails, also one without a request."""
    core, executor, _ = engine_with_graphs
    break_call(monkeypatch, executor, call, RuntimeError("Triton Error [CUDA]: invalid device image"))
    with pytest.raises(DeviceLostError, match="no request can be run any more: RuntimeError: Triton Error"):
        generate(core, [request("a", [3, 4, 5], 3)])


# What a request is to ask for so that the call is made for it, and where it fails.
OF_ONE_REQUEST = {
    "runner.decoder.forward": {},
    "runner.sampler.score_prompts": {"prompt_logprobs": 2},
    "copies to the host": {"logprobs": 2},
    "runner.graphs.run": {},
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("call", OF_ONE_REQUEST)
def test_a_request_that_always_fails_ends_alone(engine_with_graphs, monkeypatch, call, kind):
    """Its failures are not taken for the engine's end, though no other runs beside it."""
    core, executor, _ = engine_with_graphs
    running = []
    apply = executor.runner.requests.apply

    def noted(step):
        batch = apply(step)
        running[:] = [state.token_ids[0] for state in batch.states]
        return batch

    executor.runner.requests.apply = noted
    break_call(monkeypatch, executor, call, ERRORS[kind], when=lambda: POISON in running)
    fields = OF_ONE_REQUEST[call]
    for others in ([], [request("good", [5, 1], 3)]):
        got = generate(core, [request("bad", [POISON, 1], 3, **fields), *others])
        words = "out of memory" if "out of memory" in str(ERRORS[kind]) else "an internal error"
        assert words in got.pop("bad").error
        assert all(len(result.tokens) == 3 for result in got.values())


@pytest.mark.parametrize("call", ["runner.decoder.forward", "runner.graphs.run", "runner.sampler.score_prompts"])
def test_failed_collectives_end_the_engine(engine_with_graphs, monkeypatch, call):
    """A communicator is of no use after an error, though the device is well."""
    core, executor, _ = engine_with_graphs
    break_call(monkeypatch, executor, call, NCCL)
    with pytest.raises(DeviceLostError, match="NCCL error in"):
        generate(core, [request("a", [3, 4, 5], 3)])


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_while_a_stage_takes_in_what_the_last_one_drew(model, kind, lost):
    """Classified as any other: it is the device's, or the step's, of which nothing stays."""
    config, spec, files = model
    gpu = Gpu()
    executor = TorchExecutor(
        config,
        spec,
        files,
        torch.device("cpu"),
        Unshared(Place(stage=0, num_stages=2)),
        faults=FaultWatch(gpu.synchronize),
    )
    executor.load()
    executor.init_kv((8,))

    def broken(*_):
        gpu.corrupt = lost
        raise ERRORS[kind]

    append, executor.runner.ops.append_tokens = executor.runner.ops.append_tokens, broken
    step = SchedulerOutput(0, (NewRequest("a", [3, 4], GREEDY, ([1],), 0),), (), {"a": 2}, {"a": 1}, frozenset({"a"}))
    with pytest.raises(Exception, match=r"CUDA|CUBLAS") as caught:
        executor.take_drawn(executor.submit(step), StepOutput(0, {"a": [7]}))
    assert isinstance(caught.value, DeviceLostError) == lost
    assert not executor.runner._submitted
    if not lost:
        executor.runner.ops.append_tokens = append
        executor.take_drawn(executor.submit(replace(step, finished_ids=("a",))), StepOutput(0, {"a": [7]}))
        assert executor.runner.requests.states["a"].token_ids == [3, 4, 7]


def test_a_failed_step_holds_no_memory_when_its_requests_are_tried(engine, monkeypatch):
    """The step's tensors, and the frames that hold them, are gone by then."""
    monkeypatch.setattr(engine_core.logger, "exception", lambda *_: None)  # pytest keeps what is logged
    core, executor, _ = engine
    held, alive = [], []
    forward = executor.runner.decoder.forward

    def short(inputs, cache):
        alive.append(sum(ref() is not None for ref in held))
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(inputs, cache)

    executor.runner.decoder.forward = short
    gc.disable()
    try:
        generate(core, [request("a", [3, 4, 5], 2), request("b", [6, 7], 2)])
    finally:
        gc.enable()
    assert alive[1] == 0
