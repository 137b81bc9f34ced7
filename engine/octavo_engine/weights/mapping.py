"""Maps a file into memory, read-only, and lets it go again."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

from octavo_engine.errors import ModelLoadError


def mapped(path: Path) -> mmap.mmap:
    """The whole file, mapped. Raises ModelLoadError where it can't be read or is empty."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelLoadError(f"{path}: it can't be read: {error.strerror or error}") from error
    except ValueError:
        raise ModelLoadError(f"{path}: the file is empty") from None


def unmap(data: mmap.mmap) -> None:
    """Unmap, unless someone still holds a view into it: then the map goes with the last view."""
    with contextlib.suppress(BufferError):
        data.close()
