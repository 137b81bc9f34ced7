"""Paged keys and values: one allocation a KV group, indexed by block; and the host memory that blocks are swapped to.

Owns the memory; the scheduler owns the blocks' meaning. Independent of requests. A group's matrices lie layer by
layer, for attention reads the blocks of one layer; in host memory they lie block by block, so that a swap is one gather
and one copy a run of blocks, instead of two small copies a layer and block.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

from octavo_engine.core.outputs import KVOps
from octavo_engine.executors.torch.device import moved
from octavo_models.outline import Model
from octavo_models.spec import KVLayout

logger = logging.getLogger(__name__)

KV_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
STAGING_BYTES = 32 << 20  # of each of two buffers on the device: a block at least
Move = tuple[int, int]  # from, to
Lock = Callable[[Tensor], Callable[[], None]]


class KVCache:
    """`keys[layer]` and `values[layer]`: [num_blocks of the layer's group, block_size, num_kv_heads, head_dim].

    Of latent attention there are keys alone: a token's latent and its turned key. A layer that reads another's keys and
    values has the same tensors.

    The swap space has `num_host_blocks` in one piece of host memory; page-locked beside a GPU, so that moves need not
    be waited for. `lock` does that, and returns what undoes it.
    """

    def __init__(
        self,
        model: Model,
        layout: KVLayout,
        num_blocks: tuple[int, ...],
        kv_format: str,
        device: torch.device,
        num_host_blocks: tuple[int, ...] = (),
        lock: Lock | None = None,
    ) -> None:
        assert len(num_blocks) == len(layout.groups)
        self.layout = layout
        self.on_part: Callable[[], None] = lambda: None  # called as each piece was moved, or launched
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.group_of_layer: dict[int, int] = {}
        dtype = KV_DTYPES[kv_format]
        host_blocks = num_host_blocks or (0,) * len(layout.groups)
        host_bytes = [n * group.block_bytes for n, group in zip(host_blocks, layout.groups, strict=True)]
        host = torch.empty(sum(host_bytes), dtype=torch.uint8, device="cpu" if device.type == "cuda" else device)
        self._unlock = (lock or (page_locked if device.type == "cuda" else not_locked))(host)
        self._swaps = _SwapStream(device)
        self._stacks: list[list[_Stack]] = []
        for g, (group, away) in enumerate(zip(layout.groups, torch.split(host, host_bytes), strict=True)):
            memory = torch.zeros(num_blocks[g] * group.block_bytes // dtype.itemsize, dtype=dtype, device=device)
            swapped = away.view(dtype)
            matrices = []  # (elements of a block, whose keys or values they are, shape of a block)
            for i in group.layers:
                self.group_of_layer[i] = g
                attention = model.attentions[i]
                parts = [(self.keys, attention.head_dim_k), (self.values, attention.head_dim_v)]
                if attention.latent is not None:
                    parts = [(self.keys, attention.latent.width)]
                for held, dim in parts:
                    shape = (layout.block_size, attention.num_kv_heads, dim)
                    matrices.append((math.prod(shape), held, i, shape))
            assert sum(size for size, *_ in matrices) * dtype.itemsize == group.block_bytes, group
            self._stacks.append([])
            for size, some in groupby(sorted(matrices, key=lambda m: m[0]), key=lambda m: m[0]):
                alike = list(some)
                taken, memory = _cut(memory, (len(alike), num_blocks[g], size))
                taken_away, swapped = _cut(swapped, (host_blocks[g], len(alike), size))
                self._stacks[-1].append(_Stack(taken, taken_away))
                for matrix, (_, held, i, shape) in zip(taken, alike, strict=True):
                    held[i] = matrix.view(-1, *shape)
        for i, attention in enumerate(model.attentions):
            if (source := attention.kv_from_layer) is not None:
                self.group_of_layer[i] = self.group_of_layer[source]
                self.keys[i], self.values[i] = self.keys[source], self.values[source]

    def apply(self, ops: KVOps) -> None:
        """Swap out, copy, swap in, each in order; on a GPU in the order of its stream, without waiting."""
        for moves, move in ((ops.swap_out, self._swap_out), (ops.copies, self._copy), (ops.swap_in, self._swap_in)):
            for group, some in groupby(moves, key=lambda m: m[0]):
                pairs = [(source, target) for _, source, target in some]
                for stack in self._stacks[group]:
                    move(stack, pairs)

    def close(self) -> None:
        """Release the swap space, once the device is idle. No tensor of the swap space may be used afterwards."""
        self._unlock()

    def _swap_out(self, stack: _Stack, pairs: list[Move]) -> None:
        for some in stack.chunks(pairs):
            with self._swaps.staging(stack) as staging:
                torch.index_select(
                    stack.device.transpose(0, 1), 0, stack.numbers(b for b, _ in some), out=staging[: len(some)]
                )
                with self._swaps.beside():
                    for at, first, count in runs_of([target for _, target in some]):
                        stack.host[first : first + count].copy_(staging[at : at + count], non_blocking=True)
            self.on_part()

    def _swap_in(self, stack: _Stack, pairs: list[Move]) -> None:
        for some in stack.chunks(pairs):
            with self._swaps.staging(stack) as staging:
                with self._swaps.beside(awaited=True):
                    for at, first, count in runs_of([source for source, _ in some]):
                        staging[at : at + count].copy_(stack.host[first : first + count], non_blocking=True)
                stack.device.transpose(0, 1).index_copy_(0, stack.numbers(b for _, b in some), staging[: len(some)])
            self.on_part()

    def _copy(self, stack: _Stack, pairs: list[Move]) -> None:
        for source, target in pairs:
            stack.device[:, target].copy_(stack.device[:, source])
            self.on_part()


class _Stack:
    """The matrices of a group that are of one size: device [matrices, blocks, size], host [blocks, matrices, size]."""

    def __init__(self, device: Tensor, host: Tensor) -> None:
        self.device = device
        self.host = host
        num, _, size = device.shape
        self._most = max(1, STAGING_BYTES // (num * size * device.element_size())) if len(host) else 0
        self.staging = device.new_empty(2, min(self._most, len(host)), num, size)
        self.turn = 0

    def chunks(self, pairs: list[Move]) -> Iterator[list[Move]]:
        """Divide blocks into pieces that a staging buffer holds."""
        most = self.staging.shape[1]
        for first in range(0, len(pairs), most):
            yield pairs[first : first + most]

    def numbers(self, blocks: Iterator[int]) -> Tensor:
        return moved(torch.tensor(list(blocks), dtype=torch.int64), self.device.device)


class _SwapStream:
    """Copies to and from host memory beside the stream that computes. On a CPU everything is done at once."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _stream(device) if device.type == "cuda" else None
        self._free: dict[int, torch.cuda.Event] = {}  # a staging buffer's, once its last copy is done

    @contextmanager
    def staging(self, stack: _Stack) -> Iterator[Tensor]:
        """The next of a stack's two buffers, once what used it last is done: [blocks, matrices, size]."""
        stack.turn ^= 1
        buffer = stack.staging[stack.turn]
        if self._stream is None:
            yield buffer
            return
        free = self._free.get(buffer.data_ptr())
        if free is not None:
            torch.cuda.current_stream().wait_event(free)
        yield buffer
        self._free[buffer.data_ptr()] = self._stream.record_event()

    @contextmanager
    def beside(self, *, awaited: bool = False) -> Iterator[None]:
        """Copies that begin when what was launched so far is done. `awaited`: what is launched later waits for them."""
        if self._stream is None:
            yield
            return
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        if awaited:
            here.wait_stream(self._stream)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _cut(memory: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The beginning of flat memory in that shape, and the rest."""
    size = math.prod(shape)
    return memory[:size].view(shape), memory[size:]


def swap_buffer_bytes(layout: KVLayout) -> int:
    """Bytes that swaps keep on the device: two buffers for each stack of matrices, of which a group has two at most."""
    return sum(2 * max(2 * STAGING_BYTES, group.block_bytes) for group in layout.groups if group.layers)


def runs_of(numbers: list[int]) -> Iterator[tuple[int, int, int]]:
    """(place, first number, how many) of each stretch of numbers that count up by one."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield first, numbers[first], i - first
            first = i


def not_locked(_: Tensor) -> Callable[[], None]:
    """Host memory as it is."""
    return lambda: None


def page_locked(memory: Tensor) -> Callable[[], None]:
    """Lock host memory where it lies. PyTorch's own pinned memory takes the next power of two of what is asked for."""
    if not memory.numel():
        return not_locked(memory)
    runtime, at = torch.cuda.cudart(), memory.data_ptr()  # type: ignore[no-untyped-call]
    code = runtime.cudaHostRegister(at, memory.numel(), 0)
    if int(code) != 0:
        logger.warning(
            "%.1f GiB of swap space can't be page-locked (CUDA error %d), so swaps make steps wait: lower --swap-space, "
            "or raise the limit of locked memory (ulimit -l)",
            memory.numel() / (1 << 30),
            int(code),
        )
        return not_locked(memory)
    return lambda: runtime.cudaHostUnregister(at)
