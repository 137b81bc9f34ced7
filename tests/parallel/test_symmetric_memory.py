"""The calls of torch for sums over symmetric memory, and the launches of a sum."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from symmetric_stand_in import Operations, StandIn
from torch._C import _distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode

from octavo_engine.executors.torch.parallel_symmetric import BUFFER_BYTES, SymmetricSum, TorchMemory

CPU = torch.device("cpu")


def gpu(index):
    return torch.device("cuda", index)


@pytest.fixture
def node(monkeypatch):
    """A machine of four GPUs, all of which reach each other by NVLink; a test takes links away."""
    reachable, links = [[True] * 4 for _ in range(4)], [[4] * 4 for _ in range(4)]
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: reachable[a.index][b.index])
    monkeypatch.setattr(_distributed_c10d, "_detect_dma_connectivity", lambda *_: SimpleNamespace(matrix=links))
    return SimpleNamespace(reachable=reachable, links=links)


def obstacle(*peers, own=0):
    return TorchMemory().obstacle(gpu(own), [gpu(peer) for peer in peers])


def test_gpus_that_reach_each_other_have_it(node):
    assert obstacle(1) == obstacle(1, 2, 3) == obstacle(0, 1, 3, own=2) == ""


def test_a_gpu_out_of_reach_is_named(node):
    """Only where it is one of the group's."""
    node.reachable[0][2] = False
    assert obstacle(1) == ""
    assert obstacle(1, 2, 3) == "GPU 0 can't read the memory of GPU 2"


def test_two_gpus_do_by_pcie_and_more_need_nvlink(node):
    """Each reads what all others have: the host's bridge would carry all of it at once."""
    node.links[0][3] = 0
    assert obstacle(3) == ""
    assert "no NVLink between GPU 0 and each of the other 2" in obstacle(1, 3)


def test_a_torch_without_the_operations_is_named(node, monkeypatch):
    monkeypatch.setattr(torch.ops, "symm_mem", SimpleNamespace(one_shot_all_reduce_copy_out=None))
    assert "has no operation multimem_all_reduce_" in obstacle(1)
    monkeypatch.delattr(_distributed_c10d, "_SymmetricMemory")
    assert "does not offer it" in obstacle(1)


def test_torch_takes_the_calls_as_they_are_made():
    """This build refuses the device, not the arguments; and its operations have the signatures that are relied on."""
    with pytest.raises(RuntimeError, match="does not support device type cpu"):
        TorchMemory().allocate(64, CPU)
    with pytest.raises(RuntimeError, match="does not support device type cpu"):
        TorchMemory().meet(torch.empty(64, dtype=torch.uint8), "a group")
    ops = torch.ops.symm_mem
    names = ["symm_buffer", "local_input", "reduce_op", "group_name", "out"]
    assert [arg.name for arg in ops.one_shot_all_reduce_copy_out.default._schema.arguments] == names
    names = ["input", "reduce_op", "group_name"]
    assert [arg.name for arg in ops.multimem_all_reduce_.default._schema.arguments] == names


class Launches(TorchDispatchMode):
    """Notes every operation, and computes those of symmetric memory not at all."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.seen.append((name, [arg.data_ptr() for arg in args if isinstance(arg, torch.Tensor)]))
        if func.namespace == "symm_mem":
            return args[4] if name.startswith("one_shot") else args[0]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("num_bytes", "launched"),
    [
        (1 << 12, ["one_shot_all_reduce_copy_out"]),
        (4 << 20, ["copy_", "multimem_all_reduce_", "copy_"]),
    ],
)
def test_a_sum_allocates_nothing_and_always_takes_the_same_addresses(num_bytes, launched):
    """A CUDA graph that has captured it replays it: no allocation, no wait for the host, no other buffer."""
    memory = StandIn(multicast=True)
    group = SimpleNamespace(group_name="stage 0")
    total = SymmetricSum(group, CPU, [CPU], memory)
    total._buffer, total.multicast = memory.allocate(BUFFER_BYTES, CPU), True
    start = total._buffer.data_ptr()
    x = torch.zeros(num_bytes // 1024, 512, dtype=torch.bfloat16)
    assert total.takes(x)
    views = {"view", "slice", "alias", "detach"}
    for _ in range(2):
        with torch.inference_mode(), Launches() as mode:
            assert total(x) is x
        assert [name for name, _ in mode.seen if name not in views] == launched
        addresses = {address for name, found in mode.seen if name not in views for address in found}
        assert addresses == {start, x.data_ptr()}


def test_the_stand_in_refuses_what_torch_refuses():
    """The tests over it would otherwise show nothing: memory that is not mapped, types and alignments."""
    memory = StandIn()
    buffer = memory.allocate(256, CPU)
    whole = buffer.view(torch.float32)
    call = torch.ops.symm_mem.one_shot_all_reduce_copy_out
    with pytest.raises(AssertionError, match="must be allocated with"):
        call(whole, whole.clone(), "sum", "g", whole.clone())
    memory.met[buffer.data_ptr()] = "g"
    half = buffer.view(torch.float16)
    with pytest.raises(NotImplementedError, match="not implemented for"):
        call(half, half.clone(), "sum", "g", half.clone())
    odd = torch.zeros(67)[3:]
    with pytest.raises(AssertionError, match="must have the same alignment"):
        call(whole, odd, "sum", "g", odd)
    with pytest.raises(AssertionError, match="multicast support is required"):
        torch.ops.symm_mem.multimem_all_reduce_(whole, "sum", "g")
    assert Operations.memory is memory
