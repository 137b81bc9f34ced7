"""The description of a manifest's model, from this machine's files: a config.json, a GGUF, a cache.

Never fetches weights. The hub is asked for one small config.json, and only if the caller allows it. Independent of
plans; what it can't find out is a reason, not an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from octavo_models import (
    ModelError,
    ModelSpec,
    UnsupportedModelError,
    from_gguf_header,
    from_hf_checkpoint,
    from_hf_config,
)
from octavo_models.errors import UnsupportedFormatError, with_remedy
from octavo_models.gguf_header import MAGIC, read_gguf_header
from octavo_models.gguf_pieces import first_pieces, join, piece_names
from octavo_models.pointer_files import LFS_POINTER, refuse_pointer
from octavo_models.purpose import GENERATE_OR_POOL, Purpose
from octavo_models.safetensors_header import read_safetensors_header
from octavo_models.sentence_modules import read_modules
from octavo_models.stored_tensor import StoredTensor
from octavo_operator.api.model import Model
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import MODEL_CONFIG, MODEL_SIZE
from octavo_operator.description.hub import expanded, hub_home, user_cache
from octavo_operator.description.model_size import size_of_files, size_of_folder
from octavo_operator.errors import ModelUnknownError

RECEIPT = "octavo-fetched.json"  # written next to what the engine has fetched from a package, once it is complete


@dataclass(frozen=True, slots=True)
class Description:
    """The spec, or half a sentence with the reason why there is none."""

    spec: ModelSpec | None
    why_unknown: str = ""
    size: int | None = None
    """Bytes of the weights, where there is no spec and their files have a size."""
    undescribed: str = ""
    """The part of the config that octavo_models does not describe; the engine may leave such a model to transformers."""

    @classmethod
    def unknown(cls, error: ModelUnknownError, size: int | None = None) -> Description:
        """Report that there is none, for this reason."""
        cause = error.__cause__
        if not isinstance(cause, UnsupportedModelError) or isinstance(cause, UnsupportedFormatError):
            return cls(None, str(error), size)
        what = str(cause).partition(";")[0]
        return cls(None, what, size, what)


def annotated(annotations: Mapping[str, str]) -> Description | None:
    """Describe a model by the manifest's annotations; None where it has none."""
    size = None
    if (amount := annotations.get(MODEL_SIZE)) is not None:
        try:
            size = int(Quantity.parse(amount))
        except ValueError as error:
            return Description(None, f"the annotation {MODEL_SIZE}: {error}")
    if (text := annotations.get(MODEL_CONFIG)) is None:
        return None if size is None else Description(None, f"its size alone is annotated ({MODEL_SIZE})", size)
    try:
        return Description(_from_config(text, f"the annotation {MODEL_CONFIG}"))
    except ModelUnknownError as error:
        return Description.unknown(error, size)


def describe(
    model: Model,
    *,
    config: Path | None = None,
    folder: Path | None = None,
    annotations: Mapping[str, str] = MappingProxyType({}),
    offline: bool,
) -> Description:
    """The model's spec from the file or folder named, else from its annotation, else from the place that its uri names.

    Raises:
        ModelUnknownError: a file or folder that was named can't be read; one that was merely found is only unknown.
    """
    if config is not None:
        return Description(_read(config))
    if folder is not None:
        return Description(_read(_main_file(folder, model.file)))
    if (described := annotated(annotations)) is not None:
        return described
    found = None
    try:
        found = _find(model)
        return _from_hub(model, offline=offline) if found is None else Description(_read(found))
    except ModelUnknownError as error:
        size = None
        if found is not None:
            size = size_of_folder(found.parent, found.name if found.suffix == ".gguf" else model.file)
        return Description.unknown(error, size)


def _find(model: Model) -> Path | None:
    """The file on this machine that describes the model; None where the hub may be asked."""
    uri = model.uri
    match uri.scheme:
        case "file":
            path = Path(uri.rest)
            if not path.exists():
                raise ModelUnknownError(f"{path} does not exist on this machine")
            return _main_file(path, model.file) if path.is_dir() else path
        case "package":
            return _in_packages(uri.rest, model.file)
        case "hf":
            return _in_hub_cache(uri.rest, model)
        case "pvc":
            raise ModelUnknownError(
                "the model lies on a volume of the cluster; give its config.json with --config FILE"
            )
        case _:
            raise ModelUnknownError(f"{uri} is not asked for its description; give its config.json with --config FILE")


def _read(path: Path) -> ModelSpec:
    """Raises ModelUnknownError that names the file."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        if path.suffix.lower() == ".gguf" or start.startswith(MAGIC):
            return _from_gguf(path)
        refuse_pointer(start)
        text = path.read_text(encoding="utf-8")
        if path.name != "config.json":
            return _from_config(text, str(path))
        shards, purpose = _shards(path.parent), _purpose(path.parent)
        if shards:
            return _from_checkpoint(text, str(path), shards, purpose)
        return _from_config(text, str(path), purpose)
    except OSError as error:
        raise ModelUnknownError(f"{error.filename or path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelUnknownError(f"{path} is not UTF-8 text") from error
    except ModelError as error:
        raise ModelUnknownError(f"{path}: {with_remedy(error)}") from error


def _purpose(folder: Path) -> Purpose:
    """The purpose that sentence-transformers' files beside a config.json name."""

    def read(name: str) -> Any:
        path = folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    try:
        return Purpose(modules=read_modules(read))
    except (ValueError, RecursionError) as error:
        raise ModelUnknownError(f"{folder}: the files that modules.json names are not JSON: {error}") from error


def _from_gguf(path: Path) -> ModelSpec:
    """Read all pieces, where gguf-split cut the model: the first one alone lacks most of the weights."""
    headers = {}
    for piece in (path.with_name(name) for name in piece_names(path.name)):
        with piece.open("rb") as file:
            headers[piece.name] = read_gguf_header(file)
    return from_gguf_header(join(headers))


def _shards(folder: Path) -> list[Path]:
    """The weights next to a config.json that the engine would load; none unless all of them exist."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    weight_map = _json_object(index.read_text(encoding="utf-8"), str(index)).get("weight_map")
    names = {Path(str(name)).name for name in weight_map.values()} if isinstance(weight_map, dict) else set()
    shards = [folder / name for name in sorted(names)]
    return shards if all(shard.is_file() for shard in shards) else []


def _from_checkpoint(text: str, name: str, shards: Sequence[Path], purpose: Purpose) -> ModelSpec:
    """Read config and weights: they decide on the dtype, and whether the head is tied."""
    tensors: dict[str, StoredTensor] = {}
    with ExitStack() as opened:
        files = [opened.enter_context(shard.open("rb")) for shard in shards]
        for piece, file in enumerate(files):
            try:
                tensors |= read_safetensors_header(file, piece)
            except ModelError as error:
                raise ModelUnknownError(f"{shards[piece]}: {with_remedy(error)}") from error

        def read(tensor: StoredTensor, start: int, count: int) -> bytes:
            file = files[tensor.piece]
            file.seek(tensor.offset + start)
            return file.read(count)

        try:
            return from_hf_checkpoint(_json_object(text, name), tensors, read, purpose=purpose)[0]
        except ModelError as error:
            raise ModelUnknownError(f"{name}: {with_remedy(error)}") from error


def _from_config(text: str, name: str, purpose: Purpose = GENERATE_OR_POOL) -> ModelSpec:
    try:
        return from_hf_config(_json_object(text, name), purpose=purpose)
    except ModelError as error:
        raise ModelUnknownError(f"{name}: {with_remedy(error)}") from error


def _json_object(text: str, name: str) -> dict[str, Any]:
    try:
        config = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ModelUnknownError(f"{name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelUnknownError(f"{name} holds no JSON object")
    return config


def _main_file(folder: Path, file: str | None) -> Path:
    """The file that describes a folder's model: the file named, a config.json with its weights, or the only GGUF."""
    if not folder.is_dir():
        raise ModelUnknownError(f"{folder} is not a folder")
    if file is not None and Path(file).suffix.lower() in {".gguf", ""}:
        return folder / file
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() == ".gguf")
    ggufs = [Path(name) for name in first_pieces(found)]
    config = folder / "config.json"
    if config.is_file() and (not ggufs or any(folder.glob("*.safetensors"))):
        return config
    if len(ggufs) == 1:
        return ggufs[0]
    if not ggufs:
        raise ModelUnknownError(f"{folder} holds neither config.json nor a GGUF file")
    raise ModelUnknownError(f"{folder} holds {len(ggufs)} GGUF files; model.file names one")


def _in_packages(reference: str, file: str | None) -> Path:
    name, _, version = reference.partition("==")
    folder = _cache() / "packages" / re.sub(r"[-_.]+", "-", name).lower()
    fetched = sorted(receipt.parent for receipt in folder.glob(f"{version or '*'}-*/{RECEIPT}"))
    if not fetched:
        raise ModelUnknownError("the package is not fetched yet; octavo up fetches it")
    return _main_file(fetched[-1], file)


def _cache() -> Path:
    """The engine's cache folder, by the same variables."""
    named = os.environ.get("OCTAVO_CACHE")
    return expanded(named) if named else user_cache() / "octavo"


def _in_hub_cache(name: str, model: Model) -> Path | None:
    """Find a model in huggingface_hub's cache, by its documented layout: refs name commits, snapshots hold files."""
    named = os.environ.get("HF_HUB_CACHE")
    hub = expanded(named) if named else hub_home() / "hub"
    repository = hub / f"models--{name.replace('/', '--')}"
    revision = model.revision or "main"
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    snapshot = repository / "snapshots" / commit
    try:
        found = _main_file(snapshot, model.file)
    except ModelUnknownError:
        return None
    return found if found.is_file() else None


def _from_hub(model: Model, *, offline: bool) -> Description:
    if offline or os.environ.get("HF_HUB_OFFLINE") in {"1", "true", "TRUE", "True"}:
        raise ModelUnknownError("its config.json is not on this machine; give it with --config FILE")
    if model.file is not None:
        raise ModelUnknownError(f"{model.file} is not on this machine; give its folder with --model-dir FOLDER")
    from octavo_operator.description.hub import config_of, sizes_of  # noqa: PLC0415 — only a question to the hub pays for it

    text = config_of(model.uri.rest, model.revision)
    try:
        return Description(_from_config(text, "the hub's config.json"))
    except ModelUnknownError as error:
        size = None
        with suppress(ModelUnknownError):
            size = size_of_files(sizes_of(model.uri.rest, model.revision))
        return Description.unknown(error, size)
