"""Finds a model's files in a folder: config, tokenizer, weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.json_files import read_json, read_shard_names
from octavo_engine.weights.weight_file import naming
from octavo_models.gguf_pieces import first_pieces, piece_names
from octavo_models.sentence_modules import MODULES, Modules, read_modules

INDEX = "model.safetensors.index.json"


def files_of_gguf(path: Path, commit: str | None) -> ModelFiles:
    """A GGUF file, with its further pieces if gguf-split divided it; other files of its folder are ignored."""
    return ModelFiles(
        folder=path.parent,
        config=None,
        weights=gguf_pieces(path),
        weights_format="gguf",
        tokenizer=None,
        commit=commit,
    )


def files_of_folder(folder: Path, model: ModelConfig, commit: str | None = None) -> ModelFiles:
    """The model in a folder, read as `--load-format` says.

    Raises:
        ModelLoadError: the folder lacks what is needed, or holds several models and none is named.
    """
    config, safetensors, ggufs = _existing(folder / "config.json"), sorted(folder.glob("*.safetensors")), _ggufs(folder)
    if model.file is not None and names_gguf(model.file):
        chosen = folder / model.file
        if not chosen.is_file() or ".." in chosen.parts[len(folder.parts) :]:
            raise ModelLoadError(f"{folder}: there is no {model.file}{_choices(ggufs, folder)}")
        return files_of_gguf(chosen, commit)
    if model.load_format == "dummy" and config is not None:
        weights: tuple[Path, ...] = ()
    elif model.load_format == "gguf" or (ggufs and model.load_format != "safetensors" and not (config and safetensors)):
        if len(ggufs) != 1:
            raise ModelLoadError(f"{folder}: {len(ggufs)} GGUF models lie here; name one{_choices(ggufs, folder)}")
        return files_of_gguf(ggufs[0], commit)
    else:
        modules = modules_of(folder)
        dense = () if modules is None else (folder / each.folder / "model.safetensors" for each in modules.dense)
        weights = (*_safetensors(folder, safetensors), *dense)
    if config is None:
        raise ModelLoadError(
            f"{folder}: config.json is missing, so the folder doesn't say what model it holds; fetch it too"
        )
    return ModelFiles(
        folder=folder,
        config=config,
        weights=weights,
        weights_format="safetensors" if weights else "dummy",
        tokenizer=_existing(folder / "tokenizer.json") or _existing(folder / "vocab.txt"),
        chat_template=_existing(folder / "chat_template.jinja") or _existing(folder / "chat_template.json"),
        generation_config=_existing(folder / "generation_config.json"),
        commit=commit,
    )


def modules_of(folder: Path) -> Modules | None:
    """The modules that sentence-transformers has written beside a model; None where it has not. Raises ModelLoadError."""

    def read(name: str) -> Any:
        path = folder / name
        return read_json(path) if path.is_file() else None

    with naming(folder / MODULES):
        return read_modules(read)


def names_gguf(name: str) -> bool:
    """True if a file of this name can be a GGUF file: blobs of caches have a name without a suffix."""
    return Path(name).suffix.lower() in {".gguf", ""}


def gguf_pieces(path: Path) -> tuple[Path, ...]:
    """All pieces of a file that gguf-split cut, in order, whichever of them is named; else the file alone."""
    pieces = tuple(path.with_name(name) for name in piece_names(path.name))
    for piece in pieces:
        if not piece.is_file():
            raise ModelLoadError(
                f"{piece}: this piece of the model is missing; fetch it from where the others are from"
            )
    return pieces


def _ggufs(folder: Path) -> list[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    except OSError as error:
        raise ModelLoadError(f"{folder}: it can't be listed: {error.strerror}") from error
    return [folder / name for name in first_pieces(names)]


def _safetensors(folder: Path, found: Sequence[Path]) -> tuple[Path, ...]:
    index = folder / INDEX
    if not index.is_file():
        if not found:
            raise ModelLoadError(
                f"{folder}: there are no weights here (*.safetensors or *.gguf); pickled ones (.bin, .pt) are not read; fetch safetensors or a GGUF file"
            )
        single = folder / "model.safetensors"
        return (single,) if single in found else tuple(found)
    names = read_shard_names(index)
    for name in names:
        if not (folder / name).is_file():
            raise ModelLoadError(
                f"{folder / name}: the index names this file, and it is missing; fetch it, or the whole model again"
            )
    return tuple(folder / name for name in names)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _choices(paths: Sequence[Path], folder: Path) -> str:
    if not paths:
        return ""
    return f" with --file (one of {', '.join(str(path.relative_to(folder)) for path in paths)})"
