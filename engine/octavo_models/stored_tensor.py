"""Where a checkpoint keeps one tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`shape` has the contiguous axis last; `offset` is the file's, in bytes.

    `format` is a key of `octavo_models.formats.FORMATS`, or of a dtype that no model here uses (then none).
    `piece` is the number of the file it lies in, where a model has several.
    """

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    piece: int = 0
