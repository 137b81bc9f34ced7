"""The tensors of a checkpoint, by name, where they lie: mapped bytes, never copies.

What both file formats have in common. Knows nothing of models: a tensor is a name, a format, a shape and bytes.
"""

from __future__ import annotations

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


class Checkpoint(Protocol):
    """An opened checkpoint; every offset was checked against its file's size when it was opened."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str) -> memoryview:
        """The tensor's bytes, mapped. Raises ModelLoadError, naming file and tensor, if there is none."""

    def close(self) -> None: ...
