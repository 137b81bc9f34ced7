"""Git LFS pointers: the small files that a clone without git-lfs has in place of the large ones."""

from __future__ import annotations

from octavo_models.errors import PointerFileError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(start: bytes) -> None:
    """Raises PointerFileError where a file that begins with `start` is a Git LFS pointer."""
    if start.startswith(LFS_POINTER):
        raise PointerFileError(
            "it is a Git LFS pointer, not the file itself: run git lfs pull in its folder, or download the file"
        )
