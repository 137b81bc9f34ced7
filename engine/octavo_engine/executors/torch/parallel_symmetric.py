"""Sums over memory that every GPU of a group maps, in place of NCCL's: one kernel, and nothing that two ranks negotiate.

A decode's sums are small, and NCCL takes longer to begin one than to carry it out. Here each rank copies what it has
into a buffer that the others read by NVLink or PCIe, and adds up all of them itself ("one-shot"), always in the order of
the ranks, so that all have the same bits. Where the switch between the GPUs can add (multicast), larger sums let it do
so. What torch offers for that is private and not in every build (it is what `torch.distributed._symmetric_memory`
wraps): `Memory` is all that is used of it.

Whether a group uses this is decided once, at load, by all ranks together. Whether a sum does follows from its shape and
type alone, so that ranks agree without asking, and so does a CUDA graph that has captured it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from octavo_engine.errors import first_line

BUFFER_BYTES = 8 << 20  # a step of 512 decodes of a model 8,192 wide, in bfloat16
ALIGNMENT = 16  # bytes: the widest load of torch's kernels, which refuse an input that is aligned otherwise
TYPES = (torch.bfloat16, torch.float32)  # of torch's kernels: there are none for float16
# The largest one-shot sum by ranks: each reads all of what every other has. As vLLM's own kernel has it for four and
# eight ranks, and for two where others have measured that NCCL catches up; not measured here.
ONE_SHOT_BYTES = {2: 2 << 20, 4: 512 << 10, 8: 256 << 10}
MEETING = timedelta(seconds=30)  # for all ranks to map each other's memory
LATE = f"another rank did not map the memory within {MEETING.seconds} s"
TRIAL_BYTES = 256


class Memory(Protocol):
    """The operations that a torch build offers. Methods raise whatever torch raises."""

    def obstacle(self, device: torch.device, peers: list[torch.device]) -> str:
        """The reason why the device can't read the memory of `peers`, in words; empty if it can."""

    def allocate(self, num_bytes: int, device: torch.device) -> Tensor:
        """A buffer that other ranks may map: [num_bytes] uint8."""

    def meet(self, buffer: Tensor, group_name: str) -> bool:
        """Map the buffers of all ranks of a group, which call this together. True if their switch can add."""


class TorchMemory:
    """torch's own."""

    def obstacle(self, device: torch.device, peers: list[torch.device]) -> str:
        try:
            from torch._C._autograd import DeviceType  # noqa: PLC0415
            from torch._C._distributed_c10d import (  # type: ignore[attr-defined]  # noqa: PLC0415 — incomplete stubs
                _detect_dma_connectivity,
                _SymmetricMemory,  # noqa: F401
            )
        except ImportError as error:
            return f"torch {torch.__version__} does not offer it: {error}"
        for name in ("one_shot_all_reduce_copy_out", "multimem_all_reduce_"):
            if not hasattr(torch.ops.symm_mem, name):
                return f"torch {torch.__version__} has no operation {name}"
        unreachable = [peer.index for peer in peers if not torch.cuda.can_device_access_peer(device, peer)]
        if unreachable:
            return f"GPU {device.index} can't read the memory of GPU {unreachable[0]}"
        links = _detect_dma_connectivity(DeviceType.CUDA, "nvlink").matrix[device.index]
        if len(peers) > 1 and not all(links[peer.index] for peer in peers):
            return f"there is no NVLink between GPU {device.index} and each of the other {len(peers)}"
        return ""

    def allocate(self, num_bytes: int, device: torch.device) -> Tensor:
        from torch._C._distributed_c10d import _SymmetricMemory  # noqa: PLC0415

        # Not `symm_mem.empty`: its pool would keep the memory, and the others' mappings, when the tensor goes.
        return _SymmetricMemory.empty_strided_p2p((num_bytes,), (1,), torch.uint8, device)

    def meet(self, buffer: Tensor, group_name: str) -> bool:
        from torch._C._distributed_c10d import _SymmetricMemory  # noqa: PLC0415

        return _SymmetricMemory.rendezvous(buffer, group_name).multicast_ptr != 0


class SymmetricSum:
    """Sums of one group of ranks over a buffer that all of them have mapped. `peers`: the devices of its other ranks."""

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, peers: list[torch.device], memory: Memory
    ) -> None:
        """Nothing is allocated yet: `agree` does that."""
        size = len(peers) + 1
        self.one_shot_bytes = max((most for ranks, most in ONE_SHOT_BYTES.items() if ranks >= size), default=0)
        self.multicast = False
        self._group = group
        self._name = group.group_name
        self._device = device
        self._peers = peers
        self._memory = memory
        self._buffer: Tensor | None = None  # [BUFFER_BYTES] uint8

    def agree(
        self, gather: Callable[[str, str], list[str]], set_timeout: Callable[[timedelta | None], None]
    ) -> str | None:
        """Map the buffers and try them out; what hinders any rank, in words, and then all ranks have let go of them.

        All ranks of the engine call this together. `gather(key, obstacle)` is what each of them gives under that key;
        `set_timeout` bounds how long they wait for each other in torch.
        """
        for stage in (self._allocate, self._meet, self._try_out):
            try:
                set_timeout(MEETING)
                obstacle = stage()
            except dist.DistStoreError:
                obstacle = LATE
            except Exception as error:  # noqa: BLE001 — whatever it is, NCCL remains
                obstacle = first_line(error)
            finally:
                set_timeout(None)
            found = gather(f"symmetric memory/{stage.__name__}", obstacle)
            if any(found):
                self.release()
                rank = min((rank for rank, each in enumerate(found) if each), key=lambda rank: found[rank] == LATE)
                return f"rank {rank}: {found[rank]}"
        return None

    def takes(self, x: Tensor) -> bool:
        """True if a sum of this shape and type goes this way: the same on all ranks."""
        most = BUFFER_BYTES if self.multicast else self.one_shot_bytes
        return x.dtype in TYPES and 0 < x.nbytes <= most and x.nbytes % ALIGNMENT == 0

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of all ranks' contiguous `x`, which `takes` takes: in its place, or in that of an aligned copy."""
        assert self._buffer is not None
        if x.storage_offset() * x.element_size() % ALIGNMENT:
            x = x.clone()
        place = self._buffer.view(x.dtype)[: x.numel()].view(x.shape)
        ops = torch.ops.symm_mem
        if x.nbytes <= self.one_shot_bytes:
            ops.one_shot_all_reduce_copy_out(place, x, "sum", self._name, x)
        else:
            ops.multimem_all_reduce_(place.copy_(x), "sum", self._name)
            x.copy_(place)
        return x

    def release(self) -> None:
        """Unmap the memory. No graph that has captured a sum may be replayed again, and none may be running."""
        self._buffer = None

    def _allocate(self) -> str:
        obstacle = self._memory.obstacle(self._device, self._peers)
        if not obstacle:
            self._buffer = self._memory.allocate(BUFFER_BYTES, self._device)
        return obstacle

    def _meet(self) -> str:
        assert self._buffer is not None
        self.multicast = self._memory.meet(self._buffer, self._name)
        return ""

    def _try_out(self) -> str:
        """Each kernel once, also so that none is loaded while a graph captures it. All ranks take part in all of them."""
        size, obstacle = self._group.size(), ""
        sizes = [TRIAL_BYTES] if self.one_shot_bytes else []
        sizes += [self.one_shot_bytes + ALIGNMENT] if self.multicast else []
        for dtype in TYPES:
            for num_bytes in sizes:
                x = torch.full((num_bytes // dtype.itemsize,), self._group.rank() + 1, dtype=dtype, device=self._device)
                if not bool(self(x).eq(size * (size + 1) // 2).all()):
                    obstacle = obstacle or f"a sum of {num_bytes} bytes of {dtype} was wrong"
        return obstacle
