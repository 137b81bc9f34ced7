"""CUDA graphs without a GPU: a `graphs.Recorder` whose replays repeat the recorded operations, with no Python in between.

Like a capture it fixes every number that the host had, keeps each tensor where it was, and refuses to read one back.
Like the pool that graphs share, memory that is only allocated holds anything at each replay: here NaN. What a kernel
computes is one operation: a call of `over`'s operations, or a launch in Triton's interpreter inside `launches`. A copy
from one device to another, which a CPU does not have, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

aten = torch.ops.aten
# They read a value back, or their results' shapes depend on one.
READ_BACK = {
    *(aten._local_scalar_dense, aten.item, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount),
}
TO_HOST = {"tolist", "numpy", "item", "__array__", "__bool__", "__int__", "__float__", "__index__"}
BY_MASK = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
ALLOCATIONS = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}
Call = Callable[..., Any]


class GraphRecorder:
    """A `CudaRecorder` without a GPU. `replays` counts those of all its graphs."""

    def __init__(self) -> None:
        self.replays = 0
        self._recording: _Recording | None = None

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """See `graphs.Recorder.record`.

        Raises:
            RuntimeError: the host reads what a replay computes, as CUDA refuses it.
        """
        self._recording = recording = _Recording()
        try:
            with _HostReads(), recording:
                outputs = run()
        finally:
            self._recording = None

        def replay() -> None:
            self.replays += 1
            for call in recording.calls:
                call()

        return outputs, replay

    def forget(self) -> None:
        pass

    def over(self, operations: Any) -> Any:
        """The same operations, each of whose calls is recorded as one: for twins, which read tensors back."""
        return _Recorded(operations, self)

    @contextmanager
    def launches(self) -> Iterator[None]:
        """Inside, each launch in Triton's interpreter is recorded as one operation."""
        from triton.runtime.interpreter import GridExecutor

        launch = GridExecutor.__call__
        GridExecutor.__call__ = lambda grid, *args, **options: self.call(launch, grid, *args, **options)
        try:
            yield
        finally:
            GridExecutor.__call__ = launch

    def call(self, function: Call, *args: Any, **options: Any) -> Any:
        """Call a function; while a graph is recorded, as one operation of it."""
        recording = self._recording
        if recording is None:
            return function(*args, **options)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            result = function(*args, **options)
        recording.keep(function, args, options, result, mutates=True)
        return result


class _Recorded:
    def __init__(self, operations: Any, recorder: GraphRecorder) -> None:
        self._operations, self._recorder = operations, recorder

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._operations, name)
        return (lambda *args, **options: self._recorder.call(found, *args, **options)) if callable(found) else found


class _Recording(TorchDispatchMode):
    """`calls`: what a replay runs, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation, options = func.overloadpacket, kwargs or {}
        masks = operation in BY_MASK and any(t.dtype in {torch.bool, torch.uint8} for t in tensors(args[1]))
        from_host = operation is aten.lift_fresh and args[0].dim() > 0  # one number needs no copy
        if operation in READ_BACK or masks or from_host:
            raise _refusal(operation)
        result = func(*args, **options)
        if operation in ALLOCATIONS:
            self.calls.append(lambda: _poison(result))
        else:
            self.keep(func, args, options, result, mutates=func._schema.is_mutable)
        return result

    def keep(self, call: Call, args: Any, options: Any, result: Any, *, mutates: bool) -> None:
        """Repeat a call in replays, and put what it makes where it was made. A view makes nothing."""
        given = {_memory(tensor) for tensor in tensors((args, options))}
        kept = list(tensors(result))
        made = [i for i, tensor in enumerate(kept) if _memory(tensor) not in given]
        if not made and not mutates:
            return

        def again() -> None:
            fresh = list(tensors(call(*args, **options)))
            for i in made:
                assert kept[i].shape == fresh[i].shape, f"{call}: {kept[i].shape} became {fresh[i].shape}"
                kept[i].copy_(fresh[i])

        self.calls.append(again)


class _HostReads(TorchFunctionMode):
    """Refuses what takes a tensor's values without an operation of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in TO_HOST:
            raise _refusal(func.__name__)
        return func(*args, **(kwargs or {}))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _poison(tensor: Tensor) -> None:
    if tensor.is_floating_point():
        tensor.fill_(torch.nan)
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).max)


def _refusal(operation: object) -> RuntimeError:
    return RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {operation}")
