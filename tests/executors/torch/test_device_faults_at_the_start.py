"""Errors of a GPU at the start and at the end: an engine that can't serve is never ready, and none hangs as it goes."""

from __future__ import annotations

import weakref

import msgspec
import pytest
import torch
from gpu_faults import ERRORS, NCCL, Gpu, engine_of, small_model, with_graphs
from octavo_testing.engine_runs import generate, request
from octavo_testing.recorded_graph import GraphRecorder

from octavo_engine.config import CacheConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import DeviceLostError, OutOfMemoryError
from octavo_engine.executors.torch import model_runner, parallel_executor
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.parallel_executor import LeadExecutor, follow
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models.partition import Place


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"))


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
        monkeypatch.setattr(model_runner, "KVCache", broken)
    elif stage == "moves":
        monkeypatch.setattr(model_runner.KVCache, "apply", broken)
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
    config = with_graphs(config)
    gpu = Gpu()
    recorder = Losing(gpu, ERRORS[kind] if kind else None)
    with pytest.raises(DeviceLostError, match="the GPU's context is corrupt: "):
        engine_of(config, spec, files, recorder, gpu)
    assert recorder.asked >= 3


def test_collectives_that_fail_while_graphs_are_captured_end_the_start(model):
    config, spec, files = model
    config = with_graphs(config)
    recorder = Losing(Gpu(), NCCL)
    with pytest.raises(DeviceLostError, match="the ranks can't exchange numbers any more: NCCL"):
        engine_of(config, spec, files, recorder)


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
    config = with_graphs(config)
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
