"""A device that computes nothing and counts every byte: the executor runs over tensors without memory."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
BLOCK = 512  # bytes: CUDA's allocator gives multiples of it


class Allocations(TorchDispatchMode):
    """Counts what lives of the storages that are made while it is entered, and the most that did at once.

    What is copied to the host arrives as zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def restart(self) -> None:
        """Start counting the most from zero."""
        self.most = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        moved = func.overloadpacket.__name__ in {"to", "_to_copy"} and kwargs.get("device") == torch.device("cpu")
        if moved and args[0].device == META:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.device == META:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(storage)
        weakref.finalize(storage, self._free, size)
        self.live += size
        self.most = max(self.most, self.live)

    def _free(self, size: int) -> None:
        self.live -= size
