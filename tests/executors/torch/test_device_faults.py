"""Errors as CUDA, Triton, cuBLAS and NCCL raise them, at every call that may: the offender fails, or the engine ends.

Messages are those of PyTorch 2.13's and Triton 3.9's sources. Whether the device is lost is what it says itself.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import msgspec
import pytest
import torch
import torch.distributed as dist
from octavo_testing.engine_runs import engine_config, generate, request
from octavo_testing.recorded_graph import GraphRecorder
from octavo_testing.tiny_models import make

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.outputs import NewRequest, SchedulerOutput, StepOutput
from octavo_engine.engine import engine_core
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import DeviceLostError, OutOfMemoryError
from octavo_engine.executors.torch import executor as torch_executor
from octavo_engine.executors.torch import parallel_executor
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.parallel_executor import LeadExecutor, follow
from octavo_engine.executors.torch.rehearsal import Unshared
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.partition import Place

ILLEGAL = "CUDA error: an illegal memory access was encountered"
ERRORS = {
    "torch": torch.AcceleratorError(f"{ILLEGAL}\nSearch for `cudaErrorIllegalAddress' in the CUDA documentation"),
    "triton": RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle, opa, opb)`"),
    "pinned": RuntimeError("CUDA error: out of memory"),
    "oom": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    ),
    "module": RuntimeError("Triton Error [CUDA]: out of memory"),
}
# Where a step may meet one: (what is called, as an attribute of the executor)
CALLS = [
    "requests.apply",
    "_sampler.table.update",
    "_cache.apply",
    "_decoder.forward",
    "_sampler.draw_step",
    "_sampler.score_prompts",
    "_graphs.run",
    "copies to the host",
]
POISON = 13
GREEDY = SamplingParams(max_tokens=4, temperature=0.0)


class Gpu:
    """A device that is lost once `corrupt` is set, and says so from then on."""

    def __init__(self) -> None:
        self.corrupt = False

    def synchronize(self) -> None:
        if self.corrupt:
            raise ERRORS["torch"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make("llama", folder)
    config = engine_config(
        ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32"),
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=64),
        scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=6),
    )
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=True))
    files = resolve(config.model, lambda *_: None)
    return config, read_spec(config.model, files), files


@pytest.fixture
def engine(model):
    """(engine, its executor, its device)."""
    return engine_of(*model)


@pytest.fixture
def engine_with_graphs(model):
    """Likewise; decodes are replayed."""
    config, spec, files = model
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=False))
    return engine_of(config, spec, files, GraphRecorder())


def engine_of(config, spec, files, recorder=None, gpu=None):
    gpu = gpu or Gpu()
    executor = TorchExecutor(
        config,
        spec,
        files,
        torch.device("cpu"),
        recorder=recorder,
        operations=None if recorder is None else recorder.over(ReferenceOperations()),
        faults=FaultWatch(gpu.synchronize),
    )
    return EngineCore(config, executor, spec), executor, gpu


def break_call(monkeypatch, executor, name, error, *, when=lambda: True):
    """Make the call raise `error` from now on where `when()`."""
    if name == "copies to the host":
        break_copies(monkeypatch, error, when)
        return
    *path, last = name.split(".")
    owner = executor
    for part in path:
        owner = getattr(owner, part)
    whole = getattr(owner, last)

    def broken(*args, **options):
        result = whole(*args, **options) if last == "apply" else None
        if when():
            raise error
        return result if last == "apply" else whole(*args, **options)

    if hasattr(type(owner), "__slots__") and not hasattr(owner, "__dict__"):
        raise AssertionError(f"{name} can't be replaced")
    setattr(owner, last, broken)


def break_copies(monkeypatch, error, when):
    """Of results to the host: no other copy names it, beside a CPU."""
    copy = torch.Tensor.to

    def broken(self, *args, **options):
        if args[:1] == ("cpu",) and when():
            raise error
        return copy(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", broken)


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
    assert not executor._submitted
    assert not executor._drawn


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
            executor._drawn[handle.step_id].done = Refusing(ERRORS[kind], gpu, lost=lost)

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


STARTS = ["the weights", "the KV cache", "moves"]


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("stage", STARTS)
def test_an_error_at_the_start_ends_it_with_the_reason(model, monkeypatch, stage, kind, lost):
    """No request is to blame: nothing is tried again. Out of memory names the flags that help."""
    config, spec, files = model
    config = msgspec.structs.replace(config, cache=CacheConfig(num_gpu_blocks_override=64, swap_space_gib=0.001))
    gpu = Gpu()

    def broken(*_, **__):
        gpu.corrupt = lost
        raise ERRORS[kind]

    weights = broken if stage == "the weights" else None
    executor = TorchExecutor(
        config, spec, files, torch.device("cpu"), weights=weights, faults=FaultWatch(gpu.synchronize)
    )
    if stage == "the KV cache":
        monkeypatch.setattr(torch_executor, "KVCache", broken)
    elif stage == "moves":
        monkeypatch.setattr(torch_executor.KVCache, "apply", broken)
    with pytest.raises(Exception, match=r"CUDA|CUBLAS") as caught:
        EngineCore(config, executor, spec)
    short = "out of memory" in str(ERRORS[kind])
    if lost:
        assert isinstance(caught.value, DeviceLostError)
    elif short:
        assert type(caught.value) is OutOfMemoryError
        assert "not enough memory for" in str(caught.value)
        assert "; choose a smaller" in str(caught.value) or "; lower --kv-cache-memory-bytes" in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        assert caught.value is ERRORS[kind]


@pytest.mark.parametrize("call", CALLS[3:])
def test_an_engine_that_can_run_nothing_any_more_ends(engine_with_graphs, monkeypatch, call):
    """The device answers, and yet every step fails, also one without a request."""
    core, executor, _ = engine_with_graphs
    break_call(monkeypatch, executor, call, RuntimeError("Triton Error [CUDA]: invalid device image"))
    with pytest.raises(DeviceLostError, match="no request can be run any more: RuntimeError: Triton Error"):
        generate(core, [request("a", [3, 4, 5], 3)])


# What a request is to ask for so that the call is made for it, and where it fails.
OF_ONE_REQUEST = {
    "_decoder.forward": {},
    "_sampler.score_prompts": {"prompt_logprobs": 2},
    "copies to the host": {"logprobs": 2},
    "_graphs.run": {},
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("call", OF_ONE_REQUEST)
def test_a_request_that_always_fails_ends_alone(engine_with_graphs, monkeypatch, call, kind):
    """Its failures are not taken for the engine's end, though no other runs beside it."""
    core, executor, _ = engine_with_graphs
    running = []
    apply = executor.requests.apply

    def noted(step):
        batch = apply(step)
        running[:] = [state.token_ids[0] for state in batch.states]
        return batch

    executor.requests.apply = noted
    break_call(monkeypatch, executor, call, ERRORS[kind], when=lambda: POISON in running)
    fields = OF_ONE_REQUEST[call]
    for others in ([], [request("good", [5, 1], 3)]):
        got = generate(core, [request("bad", [POISON, 1], 3, **fields), *others])
        words = "out of memory" if "out of memory" in str(ERRORS[kind]) else "an internal error"
        assert words in got.pop("bad").error
        assert all(len(result.tokens) == 3 for result in got.values())


NCCL = dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error")


@pytest.mark.parametrize("call", ["_decoder.forward", "_graphs.run", "_sampler.score_prompts"])
def test_failed_collectives_end_the_engine(engine_with_graphs, monkeypatch, call):
    """A communicator is of no use after an error, though the device is well."""
    core, executor, _ = engine_with_graphs
    break_call(monkeypatch, executor, call, NCCL)
    with pytest.raises(DeviceLostError, match="NCCL error in"):
        generate(core, [request("a", [3, 4, 5], 3)])


class Losing(GraphRecorder):
    """Captures go until the third: the device is lost there, and `error` says so, or nothing does yet."""

    def __init__(self, gpu, error):
        super().__init__()
        self.gpu, self.error, self.asked = gpu, error, 0

    def record(self, run):
        self.asked += 1
        self.gpu.corrupt = self.asked >= 3
        if self.gpu.corrupt and self.error is not None:
            raise self.error
        return super().record(run)


@pytest.mark.parametrize("kind", [*ERRORS, None])
def test_a_gpu_that_is_lost_while_graphs_are_captured_ends_the_start(model, kind):
    """An engine that turned graphs off and called itself ready would fail with its first request."""
    config, spec, files = model
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=False))
    gpu = Gpu()
    recorder = Losing(gpu, ERRORS[kind] if kind else None)
    with pytest.raises(DeviceLostError, match="the GPU's context is corrupt: "):
        engine_of(config, spec, files, recorder, gpu)
    assert recorder.asked >= 3


def test_collectives_that_fail_while_graphs_are_captured_end_the_start(model):
    config, spec, files = model
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=False))
    gpu = Gpu()
    recorder = Losing(gpu, NCCL)
    gpu.synchronize = lambda: None
    executor = TorchExecutor(
        config,
        spec,
        files,
        torch.device("cpu"),
        recorder=recorder,
        operations=recorder.over(ReferenceOperations()),
        faults=FaultWatch(lambda: None),
    )
    with pytest.raises(DeviceLostError, match="the ranks can't exchange numbers any more: NCCL"):
        EngineCore(config, executor, spec)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_while_a_stage_takes_in_what_the_last_one_drew(model, kind, lost):
    """It goes the way of every other: the device's, or the step's, of which nothing stays."""
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

    append, executor.ops.append_tokens = executor.ops.append_tokens, broken
    step = SchedulerOutput(0, (NewRequest("a", [3, 4], GREEDY, ([1],), 0),), (), {"a": 2}, {"a": 1}, frozenset({"a"}))
    with pytest.raises(Exception, match=r"CUDA|CUBLAS") as caught:
        executor.take_drawn(executor.submit(step), StepOutput(0, {"a": [7]}))
    assert isinstance(caught.value, DeviceLostError) == lost
    assert not executor._submitted
    if not lost:
        executor.ops.append_tokens = append
        executor.take_drawn(executor.submit(replace(step, finished_ids=("a",))), StepOutput(0, {"a": [7]}))
        assert executor.requests.states["a"].token_ids == [3, 4, 7]


def test_a_failed_step_holds_no_memory_when_its_requests_are_tried(engine, monkeypatch):
    """The step's tensors, and the frames that hold them, are gone by then."""
    monkeypatch.setattr(engine_core.logger, "exception", lambda *_: None)  # pytest keeps what is logged
    core, executor, _ = engine
    held, alive = [], []
    forward = executor._decoder.forward

    def short(inputs, cache):
        alive.append(sum(ref() is not None for ref in held))
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(inputs, cache)

    executor._decoder.forward = short
    gc.disable()
    try:
        generate(core, [request("a", [3, 4, 5], 2), request("b", [6, 7], 2)])
    finally:
        gc.enable()
    assert alive[1] == 0


class NcclGroup:
    """Ranks as NCCL has them: a group that a graph still holds is waited for without end."""

    def __init__(self, graphs, gpu_idle) -> None:
        self.graphs, self.gpu_idle = graphs, gpu_idle
        self.closed = False
        self.place = Place()

    def send_command(self, data):
        assert parallel_executor.COMMANDS.decode(data) == parallel_executor.Close()

    def receive_command(self):
        return parallel_executor.ENCODER.encode(parallel_executor.Close())

    def close(self):
        assert not any(graph() is not None for graph in self.graphs), "NCCL waits for a graph that holds the group"
        assert self.gpu_idle(), "NCCL waits for a collective that runs"
        self.closed = True


class Held(GraphRecorder):
    """A recorder whose graphs can be seen to go."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = []

    def record(self, run):
        class Graph:
            def __init__(self, replay) -> None:
                self.replay = replay

        outputs, replay = super().record(run)
        graph = Graph(replay)
        self.graphs.append(weakref.ref(graph))
        return outputs, lambda: graph.replay()  # noqa: PLW0108 — which holds the graph


@pytest.mark.parametrize("role", ["lead", "follower"])
def test_graphs_go_before_the_groups_that_they_captured(model, monkeypatch, role):
    config, spec, files = model
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=False))
    recorder, waits = Held(), []
    executor = TorchExecutor(
        config,
        spec,
        files,
        torch.device("cpu"),
        recorder=recorder,
        operations=recorder.over(ReferenceOperations()),
        faults=FaultWatch(lambda: waits.append(1)),
    )
    core = EngineCore(config, executor, spec)
    generate(core, [request("a", [3, 4, 5], 8)])
    assert recorder.graphs
    waits.clear()
    group = NcclGroup(recorder.graphs, lambda: bool(waits))

    class Rank:
        def __init__(self, *_):
            self.executor = executor

        def load(self):
            return []

    if role == "lead":
        lead = LeadExecutor.__new__(LeadExecutor)
        lead._group, lead._rank, lead._reachable = group, Rank(), True
        lead.close()
    else:
        monkeypatch.setattr(parallel_executor, "Rank", Rank)
        follow(config, spec, files, group)
    assert group.closed
