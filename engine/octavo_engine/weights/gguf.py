"""GGUF files as checkpoints: `octavo_models.gguf_header` reads the headers, this module the tensors' bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.weight_file import WeightFile
from octavo_models import ModelError
from octavo_models.gguf_header import MAGIC, GgufHeader, read_gguf_header
from octavo_models.gguf_pieces import join


def is_gguf(path: Path) -> bool:
    """True if a file has the magic number of GGUF, or its suffix."""
    if path.suffix.lower() == ".gguf":
        return path.is_file()
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> GgufHeader:
    """The header of one GGUF file, or of the first piece of several.

    Raises:
        ModelLoadError: the file isn't GGUF, is cut short, or contradicts itself.
    """
    file = WeightFile(path)
    try:
        return file.header(read_gguf_header)
    finally:
        file.close()


class GgufCheckpoint:
    """A model in one GGUF file, or in several as written by gguf-split (metadata in the first).

    Raises:
        ModelLoadError: a file isn't GGUF, is cut short, or contradicts itself.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[WeightFile] = []
        try:
            headers = {}
            for path in paths:
                self._files.append(WeightFile(path))
                headers[str(path)] = self._files[-1].header(read_gguf_header)
            self.header = _joined(headers)
        except ModelLoadError:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, t.format, t.shape, paths[t.piece], t.offset, t.nbytes)
            for name, t in self.header.tensors.items()
        }

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        info = self.tensors.get(name)
        if info is None:
            raise ModelLoadError(f"{self._files[0].path}: there is no tensor {name}")
        return self._files[self.header.tensors[name].piece].read(*info.span(rows))

    def close(self) -> None:
        for file in self._files:
            file.close()


def _joined(headers: Mapping[str, GgufHeader]) -> GgufHeader:
    try:
        return join(headers)
    except ModelError as error:
        raise ModelLoadError(str(error)) from error
