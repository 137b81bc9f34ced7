"""The sampling defaults that come with a model, and the tokens that end its output.

As vLLM reads them: `--generation-config auto` takes the sampling defaults of the model's generation_config.json, `vllm`
takes none, and a path takes another folder's; the end tokens are the model's own in every case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.describe import read_config
from octavo_models import InvalidConfigError
from octavo_models.fields import Fields

# GGUF files name one end token; chat models end a turn with these too, which their published configs list as well.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")


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
    """The defaults of the model in `files`.

    Raises:
        ModelLoadError: a file isn't JSON, or a field of it makes no sense; names file and field.
    """
    own = _read_json(files.generation_config) if files.generation_config else {}
    sampling: Mapping[str, Any] = own
    where = files.generation_config
    if model.generation_config == "vllm":
        sampling = {}
    elif model.generation_config != "auto":
        where = Path(model.generation_config) / "generation_config.json"
        sampling = _read_json(where)
    try:
        return _defaults(Fields(sampling), _eos_token_ids(own, files))
    except InvalidConfigError as error:
        raise ModelLoadError(f"{where or files.config or files.folder}: {error}") from error


def _defaults(fields: Fields, eos: tuple[int, ...]) -> GenerationDefaults:
    def number(name: str) -> float | None:
        return fields.number(name, minimum=0.0, exclusive=False) if fields.has(name) else None

    def integer(name: str) -> int | None:
        return fields.integer(name, minimum=0) if fields.has(name) else None

    return GenerationDefaults(
        temperature=number("temperature"),
        top_p=number("top_p"),
        top_k=integer("top_k"),
        min_p=number("min_p"),
        repetition_penalty=number("repetition_penalty"),
        max_tokens=integer("max_new_tokens"),
        eos_token_ids=eos,
    )


def _eos_token_ids(generation_config: Mapping[str, Any], files: ModelFiles) -> tuple[int, ...]:
    if files.weights_format == "gguf":
        return _gguf_eos_token_ids(files)
    config = read_config(files)
    text_config = config.get("text_config")
    for source in (generation_config, config, text_config if isinstance(text_config, dict) else {}):
        ids = _as_ids(source.get("eos_token_id"))
        if ids:
            return ids
    return ()


def _gguf_eos_token_ids(files: ModelFiles) -> tuple[int, ...]:
    from octavo_engine.weights.gguf import GgufFile, Strings  # noqa: PLC0415

    file = GgufFile(files.weights[0])
    try:
        metadata = file.metadata
        names = ("eos", "eot", "eom")
        ids = [i for name in names for i in _as_ids(metadata.get(f"tokenizer.ggml.{name}_token_id"))]
        template, tokens = metadata.get("tokenizer.chat_template"), metadata.get("tokenizer.ggml.tokens")
        if isinstance(template, str) and isinstance(tokens, Strings):
            vocabulary = tokens.decode()
            known = [text for text in TURN_ENDS if text in template]
            ids += [vocabulary.index(text) for text in known if text in vocabulary]
        return tuple(dict.fromkeys(ids))
    finally:
        file.close()


def _as_ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if value is None:
        return ()
    if not all(type(v) is int and v >= 0 for v in values):
        raise InvalidConfigError(f"eos_token_id is {value!r}, neither a token's number nor a list of them")
    return tuple(values)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: it can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: it holds no JSON object")
    return value
