"""Safetensors files as a checkpoint: `octavo_models.safetensors_header` reads headers, this module the tensors' bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.weight_file import WeightFile
from octavo_models.safetensors_header import read_safetensors_header
from octavo_models.stored_tensor import StoredTensor


class SafetensorsCheckpoint:
    """A model in one safetensors file or several shards. Names of tensors in a folder below begin with its path.

    Raises:
        ModelLoadError: a file isn't safetensors, is cut short, or contradicts itself; names file and tensor.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[WeightFile] = []
        self.stored: dict[str, StoredTensor] = {}
        try:
            for piece, path in enumerate(paths):
                file = WeightFile(path)
                self._files.append(file)
                found = file.header(partial(read_safetensors_header, piece=piece))
                if (below := path.parent.relative_to(paths[0].parent)) != Path():  # a module of sentence-transformers
                    found = {f"{below.as_posix()}/{name}": tensor for name, tensor in found.items()}
                self._refuse_duplicates(path, found)
                self.stored |= found
        except ModelLoadError:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, t.format, t.shape, paths[t.piece], t.offset, t.nbytes)
            for name, t in self.stored.items()
        }

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        info = self.tensors.get(name)
        if info is None:
            where = self._files[0].path if len(self._files) == 1 else self._files[0].path.parent
            raise ModelLoadError(f"{where}: there is no tensor {name}")
        return self._files[self.stored[name].piece].read(*info.span(rows))

    def read_part(self, tensor: StoredTensor, start: int, count: int) -> bytes:
        """`count` bytes of a tensor from `start` on."""
        return self._files[tensor.piece].read(tensor.offset + start, count).tobytes()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _refuse_duplicates(self, path: Path, found: Mapping[str, StoredTensor]) -> None:
        duplicates = sorted(found.keys() & self.stored.keys())
        if duplicates:
            other = self._files[self.stored[duplicates[0]].piece].path
            raise ModelLoadError(f"{path}: tensor {duplicates[0]} also lies in {other}")
