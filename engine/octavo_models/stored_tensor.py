"""The location of one tensor in a model's files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`shape` has the contiguous axis last; `offset` is the file's, in bytes.

    `format` is a key of `octavo_models.formats.FORMATS`, or names a dtype that is not supported.
    `piece` is the number of its file, if a model has several.
    """

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    piece: int = 0
