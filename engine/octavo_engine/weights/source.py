"""Turns what a user wrote for a model into files on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.folder import files_of_folder, files_of_gguf

Report = Callable[[str, int, int | None], None]  # what, bytes so far, bytes in all if known


def resolve(model: ModelConfig, report: Report) -> ModelFiles:
    """Find the model's files, fetching them if need be; `report` is told of progress.

    Raises:
        ModelLoadError: there is no such model, or it can't be had from here.
    """
    where = model.model.removeprefix("file://")
    path = Path(where).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return files_of_gguf(path, None)
    if path.is_dir():
        return files_of_folder(path, model)
    raise ModelLoadError(f"{model.model}: there is no such file or folder")
