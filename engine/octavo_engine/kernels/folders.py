"""The folders of compiled kernels: Triton's own cache, and a folder beside it that an image brings along.

Owns the layout of an entry; imports neither Triton nor PyTorch.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

READ_FROM = "OCTAVO_KERNELS"  # a folder of kernels that is read and never written


def folders() -> Iterator[Path]:
    """The folders that are searched for compiled kernels: the cache, then the one that an image brings along."""
    yield kernel_cache_folder()
    if read_from := os.environ.get(READ_FROM):
        yield Path(read_from)


def kernel_cache_folder() -> Path:
    """Triton's, by the variables that it reads."""
    if folder := os.environ.get("TRITON_CACHE_DIR"):
        return Path(folder)
    return Path(os.path.expanduser(os.environ.get("TRITON_HOME", "~"))) / ".triton/cache"  # noqa: PTH111


def group_of(folder: Path, filename: str) -> dict[str, str] | None:
    """The files of one entry of Triton's cache, if all are there; they lie in `folder`, whatever the entry says."""
    try:
        names = json.loads((folder / f"__grp__{filename}").read_bytes())["child_paths"]
        files = {name: os.fspath(folder / name) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if all(map(os.path.exists, files.values())) else None


def entry_of(code_hash: str) -> str:
    """The name of the folder in which Triton keeps the code of that hash."""
    return base64.b32encode(bytes.fromhex(code_hash)).decode().rstrip("=")
