"""Models in several GGUF files, as written by gguf-split: the names of the pieces, and their headers joined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from octavo_models.errors import InvalidConfigError
from octavo_models.gguf_header import GgufHeader
from octavo_models.stored_tensor import StoredTensor

PIECE = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)


def piece_names(name: str) -> list[str]:
    """The names of all pieces of the file `name`, in order and with any folders before it; else the name alone."""
    match = PIECE.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    stem, _, count, suffix = match.groups()
    return [f"{stem}-{i:05}-of-{count}{suffix}" for i in range(1, int(count) + 1)]


def first_pieces(names: Sequence[str]) -> list[str]:
    """The GGUF files among `names` that are whole models or the first pieces of one."""
    return [name for name in names if (match := PIECE.fullmatch(name)) is None or int(match[2]) == 1]


def join(pieces: Mapping[str, GgufHeader]) -> GgufHeader:
    """The headers of all pieces, given by file name and in order, as one header; the metadata is the first one's.

    Raises:
        InvalidConfigError: the pieces don't belong together; names the file.
    """
    names, headers = list(pieces), list(pieces.values())
    tensors: dict[str, StoredTensor] = {}
    for i, (file, header) in enumerate(pieces.items()):
        count, number = header.metadata.get("split.count", 1), header.metadata.get("split.no", 0)
        if count not in {0, 1, len(pieces)} or (count == len(pieces) > 1 and number != i):
            raise InvalidConfigError(
                f"{file}: it is piece {number} of {count}, but stands as piece {i} of {len(pieces)}; "
                "all pieces must lie in one folder under the names that gguf-split gave them"
            )
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise InvalidConfigError(f"{file}: tensor {name} also lies in {names[tensors[name].piece]}")
            tensors[name] = replace(tensor, piece=i)
    factors = next((header.rope_factors for header in headers if header.rope_factors is not None), None)
    return GgufHeader(headers[0].metadata, tensors, factors)
