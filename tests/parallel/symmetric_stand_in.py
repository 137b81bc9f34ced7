"""Symmetric memory without GPUs: what torch's sources say of its operations, over gloo, refusals included.

From `torch/csrc/distributed/c10d/symm_mem/CUDASymmetricMemoryOps.cu` (one_shot_all_reduce_out_impl,
multimem_all_reduce_, get_and_verify_alignment) and `CUDASymmetricMemory.cu` (rendezvous), torch 2.13.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

LIBRARY = torch.library.Library("symm_mem", "IMPL", "CPU")


class StandIn:
    """One rank's memory. `fault` is the stage at which it fails, if any; `multicast`: its switch can add."""

    def __init__(self, *, fault: str = "", multicast: bool = False) -> None:
        self.fault = fault
        self.multicast = multicast
        self.buffers: list[weakref.ref[Any]] = []  # what was allocated: nothing but the tensor's owner holds it
        self.met: dict[int, str] = {}  # address: the group whose ranks have mapped it
        self.calls: list[tuple[str, int, str]] = []  # (operation, bytes, type)
        self.wrong = fault == "trial"
        Operations.memory = self

    @property
    def num_held(self) -> int:
        return sum(buffer() is not None for buffer in self.buffers)

    def obstacle(self, device: torch.device, peers: list[torch.device]) -> str:
        return "GPU 1 can't read the memory of GPU 0" if self.fault == "obstacle" else ""

    def allocate(self, num_bytes: int, device: torch.device) -> Tensor:
        if self.fault == "allocate":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 MiB\nmore lines")
        buffer = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.buffers.append(weakref.ref(buffer))
        return buffer

    def meet(self, buffer: Tensor, group_name: str) -> bool:
        """Meet as torch does: each rank puts what the others need into the group's store, and waits for theirs."""
        if self.fault == "meet":
            raise RuntimeError("CUDA driver error: operation not supported")
        group = distributed_c10d._resolve_process_group(group_name)
        store = distributed_c10d._get_process_group_store(group)
        store.set(f"met/{group.rank()}", "here")
        store.wait([f"met/{rank}" for rank in range(group.size())])
        self.met[buffer.untyped_storage().data_ptr()] = group_name
        return self.multicast


class Operations:
    """The kernels: sums in the order of the ranks, each rounded to the tensors' type."""

    memory: StandIn

    @classmethod
    def check(cls, name: str, buffer: Tensor, reduce_op: str, group_name: str) -> int:
        """The alignment in bytes, as `get_and_verify_alignment` has it."""
        assert buffer.is_contiguous(), f"{name}: input must be contiguous."
        assert reduce_op == "sum", f"{name}: only sum is supported for now."
        assert cls.memory.met.get(buffer.untyped_storage().data_ptr()) == group_name, (
            f"{name}: input must be allocated with empty_strided_p2p()."
        )
        if buffer.dtype not in (torch.float32, torch.bfloat16):
            raise NotImplementedError(f'"{name}" not implemented for {buffer.dtype}')
        cls.memory.calls.append((name, buffer.nbytes, str(buffer.dtype)))
        return alignment(name, buffer)

    @classmethod
    def one_shot(cls, buffer: Tensor, local: Tensor, reduce_op: str, group_name: str, out: Tensor) -> Tensor:
        name = "one_shot_all_reduce"
        aligned = cls.check(name, buffer, reduce_op, group_name)
        assert out.is_contiguous(), f"{name}: output must be contiguous."
        assert out.shape == buffer.shape, f"{name}: input/output size mismatch"
        assert local.is_contiguous(), f"{name}: local input must be contiguous."
        assert local.numel() <= buffer.numel(), f"{name}: local input size must be smaller than symm buffer size."
        assert local.dtype == out.dtype == buffer.dtype
        assert alignment(name, local) == aligned, f"{name}: local input and symm buffer must have the same alignment."
        buffer.copy_(local)
        return out.copy_(cls.total(buffer, group_name))

    @classmethod
    def multimem(cls, buffer: Tensor, reduce_op: str, group_name: str) -> Tensor:
        name = "multimem_all_reduce_"
        cls.check(name, buffer, reduce_op, group_name)
        assert cls.memory.multicast, f"{name}: multicast support is required."
        return buffer.copy_(cls.total(buffer, group_name))

    @classmethod
    def total(cls, x: Tensor, group_name: str) -> Tensor:
        group = distributed_c10d._resolve_process_group(group_name)
        parts = [torch.empty(x.shape) for _ in range(group.size())]
        dist.all_gather(parts, x.float(), group=group)
        total = parts[0].to(x.dtype)
        for part in parts[1:]:
            total = total + part.to(x.dtype)
        return total + 1 if cls.memory.wrong else total


def alignment(name: str, x: Tensor) -> int:
    least = max(4, x.element_size())
    found = [widest(x.storage_offset() * x.element_size()), widest(x.nbytes)]
    assert min(found) >= least, f"{name}<{x.dtype}>: input must be at least {least}-byte aligned."
    return min(found)


def widest(num_bytes: int) -> int:
    return next(size for size in (16, 8, 4, 2, 1) if num_bytes % size == 0)


LIBRARY.impl("one_shot_all_reduce_copy_out", Operations.one_shot)
LIBRARY.impl("multimem_all_reduce_", Operations.multimem)
