"""The files that sentence-transformers puts beside a model's config: which pooling, dense layers and length it was made with.

Reads JSON that it is given; opens no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo_models.errors import InvalidConfigError, UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.pooling import DenseActivation, PoolingKind

MODULES = "modules.json"
MOST_DENSE = 4
KINDS: dict[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
NAMES: dict[str, PoolingKind] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
OTHER_KINDS = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
ACTIVATIONS: dict[str, DenseActivation] = {
    "Identity": "none",
    "Tanh": "tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}

ReadJson = Callable[[str], Any]  # a path below the model's folder -> what the file holds; None where there is none


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A dense layer, whose weights are in the file model.safetensors of its `folder`."""

    folder: str
    in_size: int
    out_size: int
    bias: bool
    activation: DenseActivation


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules that follow the model itself."""

    kind: PoolingKind
    dense: tuple[DenseModule, ...] = ()
    normalize: bool = False
    max_length: int | None = None  # tokens that it was made for


def read_modules(read: ReadJson) -> Modules | None:
    """The modules of a folder; None where it has no modules.json.

    Raises:
        UnsupportedModelError: a module, or a pooling, that is not supported.
        InvalidConfigError: a file is missing, or a field of it is wrong.
    """
    listed = read(MODULES)
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise InvalidConfigError(f"{MODULES} is not a list of modules")
    kind: PoolingKind | None = None
    dense: list[DenseModule] = []
    normalize, max_length = False, None
    for number, each in enumerate(listed):
        fields = Fields({f"{MODULES}: {name}": value for name, value in each.items()}, f"{MODULES}: ")
        folder, name = fields.text("path", "").strip("/"), fields.text("type").rpartition(".")[2]
        if ".." in folder.split("/"):
            raise fields.error("path", f"is {folder!r}, outside of the model's folder")
        if name == "Transformer" and number == 0:
            max_length = _max_length(read(_join(folder, "sentence_bert_config.json")))
        elif name == "Pooling" and kind is None and number:
            kind = _kind(_read(read, _join(folder, "config.json")))
        elif name == "Dense" and kind is not None and not normalize and len(dense) < MOST_DENSE:
            dense.append(_dense(folder, _read(read, _join(folder, "config.json"))))
        elif name == "Normalize" and kind is not None:
            normalize = True
        else:
            raise UnsupportedModelError(
                f"{MODULES}: module {number} is {name!r}; supported are Transformer, Pooling, up to {MOST_DENSE} Dense and "
                "Normalize, in this order"
            )
    if kind is None:
        raise UnsupportedModelError(f"{MODULES} names no Pooling; Octavo serves models that have one")
    return Modules(kind, tuple(dense), normalize, max_length)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _read(read: ReadJson, path: str) -> Fields:
    values = read(path)
    if not isinstance(values, Mapping):
        raise InvalidConfigError(
            f"{path}, which {MODULES} names, {'is missing' if values is None else 'holds no object'}"
        )
    return Fields({f"{path}: {name}": value for name, value in values.items()}, f"{path}: ")


def _max_length(values: Any) -> int | None:
    fields = Fields(values if isinstance(values, Mapping) else {})
    return fields.integer("max_seq_length") if fields.has("max_seq_length") else None


def _kind(fields: Fields) -> PoolingKind:
    if fields.has("pooling_mode"):  # newer files name it
        mode = fields.text("pooling_mode")
        if mode not in NAMES:
            raise UnsupportedModelError(f"{fields.key('pooling_mode')} is {mode!r}; supported are {', '.join(NAMES)}")
        return NAMES[mode]
    found = [name for name in (*KINDS, *OTHER_KINDS) if fields.boolean(name, False)]
    if len(found) != 1 or found[0] not in KINDS:
        raise UnsupportedModelError(
            f"{fields.prefix}it names the poolings {', '.join(found) or 'none'}; supported is one of {', '.join(KINDS)}"
        )
    return KINDS[found[0]]


def _dense(folder: str, fields: Fields) -> DenseModule:
    name = fields.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModelError(f"{fields.key('activation_function')} is {name!r}; supported are {known}")
    return DenseModule(
        folder,
        fields.integer("in_features"),
        fields.integer("out_features"),
        fields.boolean("bias", True),
        ACTIVATIONS[name],
    )
