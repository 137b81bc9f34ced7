"""A recorded graph fails where a CUDA graph would: a stale number, a read-back, memory that is left unwritten."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.recorded_graph import GraphRecorder


def test_a_replay_computes_from_what_its_inputs_hold_now():
    """Through views, out of place and in place, to the addresses of the first time."""
    given, count = torch.tensor([1.0, 2.0]), torch.zeros(1)

    def run():
        count.add_(1)
        return (given.view(2, 1) * 3).squeeze(1) + count

    output, replay = GraphRecorder().record(run)
    address = output.data_ptr()
    given.copy_(torch.tensor([5.0, 7.0]))
    replay()
    assert output.data_ptr() == address
    assert output.tolist() == [17.0, 23.0]
    replay()
    assert output.tolist() == [18.0, 24.0]


def test_a_replay_has_the_numbers_and_tensors_of_its_recording_alone():
    host = {"scale": 2.0, "tensor": torch.ones(1)}
    output, replay = GraphRecorder().record(lambda: host["tensor"] * host["scale"])
    host.update(scale=3.0, tensor=torch.full((1,), 9.0))
    replay()
    assert output.item() == 2.0


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: bool(x[0] > 0),
        lambda x: range(int(x[0])),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0, 2.0]),
    ],
    ids=["item", "tolist", "numpy", "bool", "int", "nonzero", "mask", "from the host"],
)
def test_the_host_reads_nothing_back(reads):
    x = torch.ones(2)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        GraphRecorder().record(lambda: reads(x))


def test_memory_that_is_only_allocated_holds_anything():
    """The first run may have left something in it."""

    def run():
        output = torch.empty(4)
        output[:2] = 1.0
        return output

    output, replay = GraphRecorder().record(run)
    replay()
    assert output[:2].tolist() == [1.0, 1.0]
    assert output[2:].isnan().all()


def test_a_twin_is_one_operation_and_may_read_back():
    class Twin:
        width = 2

        def scaled(self, x):
            return x * x.max().item()

    recorder, x = GraphRecorder(), torch.ones(2)
    twin = recorder.over(Twin())
    assert twin.width == 2
    output, replay = recorder.record(lambda: twin.scaled(x) + 1)
    x.fill_(3.0)
    replay()
    assert output.tolist() == [10.0, 10.0]
    assert recorder.replays == 1
