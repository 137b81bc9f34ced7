"""The size of a model's weights, for models of which nothing else is known: from files, or from a hub's list of them.

As much as serving reads: the file that was named, with its further pieces, or the safetensors at the top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from octavo_models.gguf_pieces import first_pieces, piece_names

INDEX = "model.safetensors.index.json"


def size_of_files(sizes: Mapping[str, int], file: str | None = None) -> int | None:
    """Bytes of the weights among these files; None where there are none, or where it takes a choice between several."""
    if file is None:
        tensors = [name for name in sizes if name.endswith(".safetensors") and "/" not in name]
        # Some repositories hold the same weights again in another layout, such as consolidated.safetensors.
        plain = [name for name in tensors if name.startswith("model")]
        if tensors:
            return sum(sizes[name] for name in plain or tensors)
        ggufs = first_pieces([name for name in sizes if name.endswith(".gguf")])
        if len(ggufs) != 1:
            return None
        file = ggufs[0]
    return sum(sizes.get(name, 0) for name in piece_names(file)) or None


def size_of_folder(folder: Path, file: str | None = None) -> int | None:
    """Size of a folder's files; an index counts shards that are not there (yet)."""
    try:
        if file is None and (folder / INDEX).is_file():
            return int(json.loads((folder / INDEX).read_text(encoding="utf-8"))["metadata"]["total_size"])
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size_of_files(files, file)
