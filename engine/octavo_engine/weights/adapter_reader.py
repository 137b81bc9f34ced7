"""Reads a low-rank adapter (LoRA) of PEFT's: checks it against the model, and gives its factors by the model's weights.

An adapter is checked like weights: every tensor's name, shape, type and values. What can't be served is refused in one
sentence that names file and tensor. Pickled files are never opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.adapter import Adapter, LowRank
from octavo_engine.weights.adapter_config import MERGE, AdapterSettings, read_adapter_config
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.safetensors import SafetensorsCheckpoint
from octavo_models.adapter_modules import AdaptedRows, adapted_modules, plain_name
from octavo_models.spec import ModelSpec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PLAIN = ("f32", "f16", "bf16")
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.[^.]+)?\.weight")
OTHERS = {
    "lora_embedding": "adapts an embedding",
    "lora_magnitude_vector": "belongs to DoRA",
    "modules_to_save": "is a whole module that was trained beside the adapter",
    "lora_bias": "is a trained bias",
}


@dataclass(slots=True)
class _Module:
    """The two factors of one module: tensors named `…lora_A.weight`, [rank, in], and `…lora_B.weight`, [out, rank]."""

    factors: dict[str, TensorInfo] = field(default_factory=dict)


def read_adapter(folder: Path, spec: ModelSpec, adapter_id: int, max_rank: int) -> Adapter:
    """The adapter in `folder`, for the model `spec`.

    Raises:
        ModelLoadError: a file is missing or damaged, or holds what is no adapter of this model, or can't be served.
    """
    settings = read_adapter_config(_file(folder, CONFIG))
    modules = adapted_modules(spec)
    if not modules:
        raise ModelLoadError(
            f"{folder}: the modules of a GGUF file of {spec.architecture} have no known names; serve the model's "
            f"safetensors, or {MERGE}"
        )
    path = _file(folder, WEIGHTS)
    parts: list[LowRank] = []
    with closing(SafetensorsCheckpoint([path])) as checkpoint:
        found = _modules(path, checkpoint.tensors, modules)
        for name, module in found.items():  # headers first: they show most mistakes
            _check(path, name, module, modules[name], settings, max_rank)
        for name, module in found.items():
            a = _read(checkpoint, module.factors["A"])
            b = _read(checkpoint, module.factors["B"])
            with np.errstate(over="ignore"):
                b *= np.float32(settings.scale_of(name))
            if not np.isfinite(b).all():
                raise ModelLoadError(f"{path}: {module.factors['B'].name} overflows once it is scaled; train it again")
            parts += [LowRank(part.weight.name, a, _rows(b, part)) for part in modules[name]]
    return Adapter(adapter_id, tuple(parts))


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_file():
        return path
    if name == WEIGHTS and (folder / PICKLED).is_file():
        raise ModelLoadError(
            f"{folder / PICKLED}: a pickled file can run code, and is never read; save the adapter again as {WEIGHTS} "
            "(PEFT's save_pretrained with safe_serialization=True)"
        )
    if not folder.is_dir():
        raise ModelLoadError(f"No adapter found for {folder}: there is no such folder")
    raise ModelLoadError(f"No adapter found for {folder}: it has no {name}; name the folder that PEFT has written")


def _modules(
    path: Path, tensors: Mapping[str, TensorInfo], known: Mapping[str, tuple[AdaptedRows, ...]]
) -> dict[str, _Module]:
    """The modules that the file adapts, by their plain names."""
    found: dict[str, _Module] = {}
    for name, tensor in tensors.items():
        other = next((what for word, what in OTHERS.items() if word in name), None)
        if other is not None:
            raise ModelLoadError(f"{path}: tensor {name} {other}, which is not served; {MERGE}")
        match = FACTOR.fullmatch(name)
        if match is None:
            raise ModelLoadError(
                f"{path}: tensor {name} is no factor of an adapter (lora_A or lora_B); fetch the adapter again, or {MERGE}"
            )
        module = plain_name(match["module"].removeprefix("base_model.model."))
        if module not in known:
            raise ModelLoadError(
                f"{path}: tensor {name} adapts {module}, which this model lacks or which can't be adapted (projections of "
                f"attention and of MLPs can, experts, latent attention, embeddings and heads can't): load an adapter of "
                f"this very model, or {MERGE}"
            )
        factors = found.setdefault(module, _Module()).factors
        if match["factor"] in factors:
            raise ModelLoadError(
                f"{path}: tensors {factors[match['factor']].name} and {name} are the same factor of {module}; save one "
                "adapter alone"
            )
        factors[match["factor"]] = tensor
    if not found:
        raise ModelLoadError(f"{path}: it holds no tensor; fetch the adapter again")
    return found


def _check(
    path: Path,
    name: str,
    module: _Module,
    parts: tuple[AdaptedRows, ...],
    settings: AdapterSettings,
    max_rank: int,
) -> None:
    """Raise ModelLoadError unless the module's two factors are those that config and model describe."""
    for factor in ("A", "B"):
        if factor not in module.factors:
            raise ModelLoadError(f"{path}: {name} has no lora_{factor}; fetch the adapter again")
    if not settings.is_target(name):
        raise ModelLoadError(
            f"{path}: tensor {module.factors['A'].name} adapts {name}, which target_modules in {settings.path} leaves out; "
            "fetch both files of one adapter"
        )
    rank = settings.rank_of(name)
    if rank > max_rank:
        raise ModelLoadError(
            f"{settings.path}: {name} has the rank {rank}, and at most {max_rank} is served: serve with --max-lora-rank {rank}"
        )
    shapes = {"A": (rank, parts[0].weight.shape[1]), "B": (parts[0].module_rows, rank)}
    for factor, expected in shapes.items():
        tensor = module.factors[factor]
        if tensor.shape != expected:
            raise ModelLoadError(
                f"{path}: tensor {tensor.name} has the shape {list(tensor.shape)}, where the model and {settings.path.name} "
                f"make it {list(expected)}; load an adapter of this very model, and both of its files"
            )
        if tensor.format not in PLAIN:
            raise ModelLoadError(
                f"{path}: tensor {tensor.name} is stored as {tensor.format}; save the adapter in float32, float16 or bfloat16"
            )


def _read(checkpoint: SafetensorsCheckpoint, tensor: TensorInfo) -> NDArray[np.float32]:
    data = np.frombuffer(checkpoint.read(tensor.name), np.uint8).reshape(tensor.shape[0], -1)
    values = np.array(dequantize(tensor.format, data), np.float32).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise ModelLoadError(
            f"{tensor.path}: tensor {tensor.name} has elements that are not finite numbers; fetch the adapter again, or "
            "train it with a lower learning rate"
        )
    return values


def _rows(b: NDArray[np.float32], part: AdaptedRows) -> NDArray[np.float32]:
    """The rows of `b` that are the weight's, in its order."""
    rows = part.rows
    if rows is not None:
        b = b.reshape(rows.groups, rows.of, -1)[:, rows.first : rows.first + rows.count].reshape(-1, b.shape[1])
    if part.transform is not None:  # as in `load._unpermuted`
        b = b.reshape(part.transform.heads, -1, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
    return np.ascontiguousarray(b)
