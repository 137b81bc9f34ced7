"""Records of complete downloads, beside their files: the request, the files that it produced, and their sizes.

The same download, asked for again, needs neither a hub nor a network, on a volume that has outlived every Job. A file that has gone, or has another size, makes the marker void.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import cache_folder

FOLDER = ".downloads"


def read_marker(model: ModelConfig) -> Mapping[str, Any] | None:
    """`{"commit", "bytes", …}` of a download that is still whole; None where there is none."""
    try:
        marker = json.loads(_path(model).read_text(encoding="utf-8"))
        whole = all((cache_folder() / name).stat().st_size == size for name, size in marker["files"].items())
        return marker if whole and marker["digest"] == _digest(marker["files"]) else None
    except (ModelLoadError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no cache, absent, cut off or of another version: the download is looked at again


def write_marker(model: ModelConfig, files: ModelFiles) -> None:
    """Called once everything is there. A volume that cannot be written to goes without, and so does a user without one."""
    try:
        path = _path(model)
    except ModelLoadError:
        return
    named = [files.config, *files.weights, files.tokenizer, files.chat_template, files.generation_config]
    sizes = {os.path.relpath(path, cache_folder()): path.stat().st_size for path in named if path is not None}
    marker = {
        "model": model.model,
        "revision": model.revision,
        "file": model.file,
        "commit": files.commit,
        "bytes": sum(path.stat().st_size for path in files.weights),
        "files": sizes,
        "digest": _digest(sizes),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(marker), encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        return


def _path(model: ModelConfig) -> Path:
    asked = _digest([model.model, model.revision, model.file])
    return cache_folder() / FOLDER / f"{asked}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
