"""Low-rank adapters as PEFT writes them, and models that they are merged into: for tests of what adapters change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from octavo_engine.config import ModelConfig
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.adapter_modules import adapted_modules
from octavo_models.spec import ModelSpec

Floats = NDArray[np.float32]
PREFIX = "base_model.model."


def write_config(folder: Path, **fields: Any) -> None:
    """Write an adapter_config.json of PEFT's with `fields` in place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(known | fields))


def write_adapter(folder: Path, factors: Mapping[str, tuple[Floats, Floats]], **fields: Any) -> Path:
    """Write an adapter: for each module its name in the model, A [rank, in] and B [out, rank]."""
    rank = next(iter(factors.values()))[0].shape[0]
    write_config(folder, **{"r": rank} | fields)
    tensors = {
        f"{PREFIX}{module}.lora_{name}.weight": np.ascontiguousarray(factor)
        for module, pair in factors.items()
        for name, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def random_factors(
    spec: ModelSpec, *, seed: int, rank: int = 4, size: float = 1.0, only: str = ""
) -> dict[str, tuple[Floats, Floats]]:
    """Factors for every module that can be adapted, or those whose names end in `only`.

    A product of both is about `size` times a random matrix whose rows are of length 1.
    """
    draw = np.random.default_rng(seed)
    factors = {}
    for module, parts in adapted_modules(spec).items():
        if module.endswith(only):
            rows, columns = parts[0].module_rows, parts[0].weight.shape[1]
            a = draw.standard_normal((rank, columns)) / np.sqrt(columns)
            b = draw.standard_normal((rows, rank)) * size / np.sqrt(rank)
            factors[module] = a.astype(np.float32), b.astype(np.float32)
    return factors


def merged(model: Path, factors: Mapping[str, tuple[Floats, Floats]], target: Path, *, scale: float = 2.0) -> Path:
    """A copy of a model in float32 whose weights have the adapter's products, `scale` times; of a Conv1D transposed."""
    shutil.copytree(model, target)
    config = ModelConfig(model=str(model), served_model_names=("merged",))
    spec = read_spec(config, resolve(config, lambda *_: None))
    weights = load_file(target / "model.safetensors")
    for module, parts in adapted_modules(spec).items():
        if module in factors:
            a, b = factors[module]
            source = parts[0].weight.sources[0]
            product = np.float32(scale) * b @ a
            weights[source.tensor] = weights[source.tensor] + (product.T if source.transposed else product)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target
