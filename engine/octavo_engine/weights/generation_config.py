"""The sampling defaults that come with a model, and the tokens that end its output.

As vLLM reads them: `--generation-config auto` takes the sampling defaults of the model's generation_config.json, `vllm`
takes none, and a path takes another folder's; the end tokens are the model's own in every case.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.weights.describe import read_config
from octavo_engine.weights.gguf import read_header
from octavo_engine.weights.json_files import read_object
from octavo_engine.weights.token_ids import known_ids
from octavo_models.gguf_header import Strings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a request that says nothing gets. None: the API's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def read_generation_defaults(model: ModelConfig, files: ModelFiles) -> GenerationDefaults:
    """The defaults of the model in `files`; a field that makes no sense is warned of and left out.

    Raises:
        ModelLoadError: a file can't be read, or isn't JSON; names it.
    """
    own = read_object(files.generation_config) if files.generation_config else {}
    sampling: Mapping[str, Any] = own
    where = files.generation_config
    if model.generation_config == "vllm":
        sampling = {}
    elif model.generation_config != "auto":
        where = Path(model.generation_config) / "generation_config.json"
        sampling = read_object(where)
    return _Defaults(sampling, where).read(_eos_token_ids(own, files))


@dataclass(frozen=True, slots=True)
class _Defaults:
    """Sampling defaults as a file has them. The bounds are those of a request's fields."""

    values: Mapping[str, Any]
    path: Path | None

    def read(self, eos: tuple[int, ...]) -> GenerationDefaults:
        top_k = self._integer("top_k", "-1 or more", lambda value: value >= -1)
        return GenerationDefaults(
            temperature=self._number("temperature", "between 0 and 100", lambda value: 0 <= value <= 100),
            top_p=self._number("top_p", "above 0 and at most 1", lambda value: 0 < value <= 1),
            top_k=None if top_k is None else max(top_k, 0),  # -1 is vLLM's way to turn it off
            min_p=self._number("min_p", "between 0 and 1", lambda value: 0 <= value <= 1),
            repetition_penalty=self._number(
                "repetition_penalty", "above 0 and at most 100", lambda value: 0 < value <= 100
            ),
            max_tokens=self._integer("max_new_tokens", "1 or more", lambda value: value >= 1),
            eos_token_ids=eos,
        )

    def _number(self, name: str, bounds: str, allowed: Callable[[float], bool]) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if type(value) not in {int, float} or not allowed(value):
            self._ignore(name, value, f"a number {bounds}")
            return None
        return float(value)

    def _integer(self, name: str, bounds: str, allowed: Callable[[int], bool]) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if type(value) not in {int, float} or value != value // 1 or not allowed(int(value)):
            self._ignore(name, value, f"a whole number, {bounds}")
            return None
        return int(value)

    def _ignore(self, name: str, value: object, expected: str) -> None:
        logger.warning("%s: %s is %.60r, not %s: it is ignored", self.path, name, value, expected)


def _eos_token_ids(generation_config: Mapping[str, Any], files: ModelFiles) -> tuple[int, ...]:
    """All that any of the model's files says; the tokenizer's own are joined by the server."""
    if files.weights_format == "gguf":
        return _gguf_eos_token_ids(files)
    config = read_config(files)
    text_config = config.get("text_config")
    inner = text_config if isinstance(text_config, dict) else {}
    sizes = (source.get("vocab_size") for source in (config, inner))
    num_tokens = next((size for size in sizes if type(size) is int), None)
    found: list[int] = []
    for path, source in ((files.generation_config, generation_config), (files.config, config), (files.config, inner)):
        found += known_ids(source.get("eos_token_id"), num_tokens, f"{path}: eos_token_id")
    return tuple(dict.fromkeys(found))


def _gguf_eos_token_ids(files: ModelFiles) -> tuple[int, ...]:
    metadata = read_header(files.weights[0]).metadata
    tokens = metadata.get("tokenizer.ggml.tokens")
    num_tokens = len(tokens) if isinstance(tokens, Strings) else None
    # The tokenizer has warned of those that name no token.
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    ids = (i for key in keys for i in known_ids(metadata.get(key), num_tokens, key, warn=False))
    return tuple(dict.fromkeys(ids))
