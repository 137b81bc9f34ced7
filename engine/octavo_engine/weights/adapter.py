"""A low-rank adapter (LoRA) as executors take it: for some weights of the model, two small matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LowRank:
    """The term that an adapter adds to the product of one weight: `y += b @ (a @ x)`, for each token x.

    `weight` is the canonical name of a matrix, such as `layers.3.q`, of the shape [out_features, in_features]. `a` is
    [rank, in_features]; `b` is [out_features, rank], its rows in the weight's canonical order (`Weight.transform` is
    applied), scaling included. Both are contiguous. Of a packed checkpoint the weight may be quantized; these are not.
    """

    weight: str
    a: NDArray[np.float32]
    b: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter. Ranks differ from weight to weight, none is above `config.adapters.max_lora_rank`.

    `adapter_id` is above 0 and names these very matrices: what is loaded again, or in its place, has another one.
    """

    adapter_id: int
    parts: tuple[LowRank, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.a.nbytes + part.b.nbytes for part in self.parts)
