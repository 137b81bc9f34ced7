"""The JSON files that come with a model: each holds one object, in UTF-8 with or without a byte order mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.weight_file import naming
from octavo_models.pointer_files import refuse_pointer


def read_text(path: Path) -> str:
    """A text file's content without its byte order mark.

    Raises:
        ModelLoadError: it can't be read, isn't UTF-8, or is a Git LFS pointer.
    """
    try:
        data = path.read_bytes()
        with naming(path):
            refuse_pointer(data)
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: it can't be read: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ModelLoadError: it can't be read, isn't JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: it holds no JSON object; fetch the file again")
    return value


def read_shard_names(index: Path) -> list[str]:
    """The files that an index of sharded weights (`model.safetensors.index.json`) names, sorted.

    Raises:
        ModelLoadError: it isn't such an index, or names a file outside of its folder.
    """
    value = read_json(index)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{index}: it isn't an index of safetensors files: it has no weight_map; fetch it again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelLoadError(f"{index}: it names {name!r}, which isn't a file of this folder; fetch it again")
    return sorted(set(weight_map.values()))


def read_json(path: Path) -> Any:
    """The value that a JSON file holds. Raises ModelLoadError where it can't be read, or isn't JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: it can't be read as JSON: {error}; fetch the file again") from error
