"""The tensors of a checkpoint, by name, and their bytes as stored: the interface of both file formats.

Independent of models: a tensor is a name, a format, a shape and bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `format` is a key of `octavo_models.formats.FORMATS`; `shape` has the last axis contiguous."""

    name: str
    format: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def num_rows(self) -> int:
        """Rows of the last axis; of a vector, its elements."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else self.shape[0]

    def span(self, rows: tuple[int, int] | None) -> tuple[int, int]:
        """Offset and bytes of the tensor, or of some of its `rows` (first, last + 1)."""
        if rows is None:
            return self.offset, self.nbytes
        size = self.nbytes // self.num_rows
        return self.offset + rows[0] * size, (rows[1] - rows[0]) * size


class Checkpoint(Protocol):
    """An opened checkpoint; every offset was checked against its file's size when it was opened."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        """A copy of the tensor's bytes, or of those of some `rows`.

        Raises:
            ModelLoadError: there is no such tensor, or its file has changed since it was opened; names the file.
        """

    def close(self) -> None: ...
