"""The sampling defaults that come with a model, and the tokens that end its output.

As vLLM reads them: `--generation-config auto` takes the sampling defaults of the model's generation_config.json, `vllm`
takes none, and a path takes another folder's; the end tokens are the model's own in every case.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ConfigError
from octavo_engine.sampling_params import MODEL_DEFAULTS
from octavo_engine.weights.gguf import read_header
from octavo_engine.weights.json_files import read_object
from octavo_engine.weights.model_spec import read_config
from octavo_engine.weights.token_ids import known_ids
from octavo_models.gguf_header import Strings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Values of parameters that a request leaves out. `sampling` holds those of `MODEL_DEFAULTS` that the model has."""

    sampling: Mapping[str, float] = field(default_factory=dict)
    max_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def read_generation_defaults(model: ModelConfig, files: ModelFiles) -> GenerationDefaults:
    """The defaults of the model in `files`; an invalid field is logged and ignored.

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
    kinds = {**MODEL_DEFAULTS, "max_new_tokens": Annotated[int, Ge(1)]}
    found = {name: _checked(sampling, name, kind, where) for name, kind in kinds.items()}
    found |= _overrides(model.generation_overrides, kinds)
    max_tokens = found.pop("max_new_tokens")
    return GenerationDefaults(
        {name: value for name, value in found.items() if value is not None},
        max_tokens,
        _eos_token_ids(own, files),
    )


def _overrides(text: str | None, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `--override-generation-config`; null takes a default of the model's away.

    Raises:
        ConfigError: a field is unknown, or out of bounds.
    """
    values: dict[str, Any] = json.loads(text or "{}")
    if unknown := values.keys() - kinds.keys():
        raise ConfigError(
            f"--override-generation-config: {min(unknown)} is no default that is read; there are {', '.join(kinds)}"
        )
    for name, value in values.items():
        if value is not None and _checked(values, name, kinds[name], None) is None:
            raise ConfigError(f"--override-generation-config: {name} can't be {value!r:.60}")
    return values


def _checked(values: Mapping[str, Any], name: str, kind: Any, path: Path | None) -> Any:
    """The number in `values` if it is of `kind`, an annotated int or float; else None, with a warning."""
    value = values.get(name)
    if value is None:
        return None
    number = int(value) if type(value) is float and value.is_integer() else value
    try:
        return TypeAdapter(kind).validate_python(number, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Input ")
        logger.warning("%s: %s is %.60r, and %s: it is ignored", path, name, value, problem)
        return None


def _eos_token_ids(generation_config: Mapping[str, Any], files: ModelFiles) -> tuple[int, ...]:
    """Collect the ids from all of the model's files; the server adds the tokenizer's."""
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
