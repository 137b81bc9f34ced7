"""The operations that a decoder shares with other ranks: sums after a row-cut product, the vocabulary's parts, stages.

`Parallel` is one rank alone, and does nothing. `RankedParallel` is one of several. Which part of a weight a rank
holds is `octavo_models.partition`'s; who the others are and how they met is `parallel_group`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from octavo_engine.executors.torch.parallel_symmetric import SymmetricSum
from octavo_engine.kernels.packing import Stored, rows_of
from octavo_models.partition import Place

WHOLE = Place()
# torch 2.13's name for it, and the name before.
gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(slots=True)
class Parallel:
    """A rank that is all there is."""

    place: Place = WHOLE

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all tensor ranks' `x`, perhaps in its place: the same bits on each of them."""
        return x

    def embed(self, table: Stored, token_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """table: [rows of the vocabulary that this rank holds, hidden] -> [num_tokens, hidden] in `dtype`."""
        return rows_of(table, token_ids, dtype)

    def gather_logits(self, x: Tensor, vocab_size: int) -> Tensor:
        """x: [n, rows of the vocabulary that this rank holds] -> [n, vocab_size], on every tensor rank."""
        del vocab_size
        return x

    def worst(self, outcome: int) -> int:
        """The largest of all ranks' outcomes, which they then act upon alike."""
        return outcome

    def receive(self, x: Tensor) -> Tensor:
        """The hidden rows that the stage before has sent, in `x`."""
        raise AssertionError(f"the first stage receives nothing, no {x.shape}")

    def send(self, x: Tensor) -> None:
        """Hand hidden rows to the stage after."""
        raise AssertionError(f"the last stage sends nothing, no {x.shape}")


ALONE = Parallel()


@dataclass(slots=True)
class RankedParallel(Parallel):
    """One rank of several. `tensor_group` is its own stage's; `device_group` has all ranks, over the same backend.

    `symmetric` computes sums of the tensor group that are small enough, where its GPUs map each other's memory.
    """

    tensor_group: dist.ProcessGroup | None = None
    device_group: dist.ProcessGroup | None = None
    symmetric: SymmetricSum | None = None
    num_collectives: int = 0  # that it has taken part in: equal on ranks that are in step

    def all_reduce(self, x: Tensor) -> Tensor:
        if self.place.tensor_size > 1:
            x = x.contiguous()
            self.num_collectives += 1
            if self.symmetric is not None and self.symmetric.takes(x):
                return self.symmetric(x)
            dist.all_reduce(x, group=self.tensor_group)
        return x

    def embed(self, table: Stored, token_ids: Tensor, dtype: torch.dtype) -> Tensor:
        if self.place.tensor_size == 1:
            return rows_of(table, token_ids, dtype)
        rows = token_ids - self.place.tensor_rank * table.shape[0]
        elsewhere = (rows < 0) | (rows >= table.shape[0])
        x = rows_of(table, rows.masked_fill(elsewhere, 0), dtype)
        return self.all_reduce(x.masked_fill_(elsewhere[:, None], 0))

    def gather_logits(self, x: Tensor, vocab_size: int) -> Tensor:
        if self.place.tensor_size == 1:
            return x
        parts = x.new_empty(self.place.tensor_size, *x.shape)  # [tensor_size, n, rows]
        self.num_collectives += 1
        gather_into(parts.view(-1, x.shape[-1]), x.contiguous(), group=self.tensor_group)
        rows = x.shape[1]  # the last ranks' are padded
        held = (max(0, min(rows, vocab_size - rank * rows)) for rank in range(self.place.tensor_size))
        return torch.cat([part[:, :width] for part, width in zip(parts, held, strict=True)], 1)

    def worst(self, outcome: int) -> int:
        outcomes = torch.tensor([outcome])
        dist.all_reduce(outcomes, op=dist.ReduceOp.MAX)  # over gloo: the device may be short of memory
        return int(outcomes)

    def receive(self, x: Tensor) -> Tensor:
        dist.recv(x, group=self.device_group, group_src=self._rank - self.place.tensor_size)
        return x

    def send(self, x: Tensor) -> None:
        dist.send(x.contiguous(), group=self.device_group, group_dst=self._rank + self.place.tensor_size)

    @property
    def _rank(self) -> int:
        return self.place.stage * self.place.tensor_size + self.place.tensor_rank
