"""Sampling defaults and end tokens come from the model's own files, as vLLM reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from octavo_testing.gguf_files import llama_metadata, write_gguf

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.generation_config import GenerationDefaults, read_generation_defaults
from octavo_engine.weights.source import resolve

PUBLISHED = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "min_p": 0.05,
    "max_new_tokens": 512,
}


def read(folder: Path, generation: dict | None, config: dict | None = None, **fields) -> GenerationDefaults:
    (folder / "config.json").write_text(json.dumps(config or {}))
    (folder / "model.safetensors").write_bytes(b"")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    model = ModelConfig(model=str(folder), served_model_names=("m",), **fields)
    return read_generation_defaults(model, resolve(model, lambda *_: None))


def test_the_models_own_defaults_hold(tmp_path):
    assert read(tmp_path, PUBLISHED) == GenerationDefaults(
        {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
        max_tokens=512,
        eos_token_ids=(151645, 151643),
    )


def test_vllms_defaults_leave_out_the_sampling_but_not_the_end_tokens(tmp_path):
    assert read(tmp_path, PUBLISHED, generation_config="vllm") == GenerationDefaults(eos_token_ids=(151645, 151643))


def test_another_folders_defaults_can_be_named(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text('{"temperature": 0}')
    defaults = read(tmp_path, PUBLISHED, generation_config=str(other))
    assert (defaults.sampling, defaults.eos_token_ids) == ({"temperature": 0}, (151645, 151643))
    with pytest.raises(ModelLoadError, match=r"nowhere/generation_config\.json: it can't be read"):
        read(tmp_path, PUBLISHED, generation_config="/nowhere")


def test_end_tokens_come_from_the_config_where_no_generation_config_says_them(tmp_path):
    assert read(tmp_path, None, {"eos_token_id": 2}).eos_token_ids == (2,)
    assert read(tmp_path, None, {"text_config": {"eos_token_id": [1, 106]}}).eos_token_ids == (1, 106)
    assert read(tmp_path, None).eos_token_ids == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", 1e9),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", 1.5),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.0),
        ("max_new_tokens", 0),
        ("max_new_tokens", "many"),
        ("max_new_tokens", float("inf")),
        ("eos_token_id", "</s>"),
        ("eos_token_id", -1),
        ("eos_token_id", 2**32 - 1),
        ("eos_token_id", {}),
    ],
)
def test_a_field_that_makes_no_sense_is_warned_of_with_its_file_and_left_out(tmp_path, name, value, caplog):
    sensible = {"min_p": 0.5} if name != "min_p" else {"top_p": 0.5}
    defaults = read(tmp_path, sensible | {name: value}, {"vocab_size": 1000})
    assert defaults == GenerationDefaults(sensible)
    assert f"generation_config.json: {name} is {value!r}" in caplog.text
    assert "it is ignored" in caplog.text


def test_null_says_nothing_and_minus_one_turns_top_k_off_as_in_vllm(tmp_path, caplog):
    nothing = dict.fromkeys((*PUBLISHED, "max_length", "typical_p"))
    assert read(tmp_path, nothing) == GenerationDefaults()
    assert read(tmp_path, {"top_k": -1}) == GenerationDefaults({"top_k": -1})
    assert not caplog.text


def test_the_end_tokens_of_all_files_hold_and_those_that_name_no_token_are_left_out(tmp_path, caplog):
    generation, config = {"eos_token_id": [7, 1000]}, {"eos_token_id": [2, 7], "vocab_size": 1000}
    assert read(tmp_path, generation, config).eos_token_ids == (7, 2)
    assert "eos_token_id is [7, 1000], which does not name one of the 1000 tokens" in caplog.text
    inner = {"text_config": {"eos_token_id": [1, 2000], "vocab_size": 2000}}
    assert read(tmp_path, {"eos_token_id": 106}, inner).eos_token_ids == (106, 1)


def test_a_gguf_file_names_its_end_tokens(tmp_path):
    """A template's own tokens count only where a rendered turn ends with one (`turn_end`): gpt-oss ends messages within
    a turn.
    """
    metadata = llama_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens[7], tokens[8] = "<|end|>", "<|return|>"
    metadata |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.eot_token_id": 8,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}",
    }
    path = write_gguf(tmp_path / "m.gguf", {}, metadata)
    model = ModelConfig(model=str(path), served_model_names=("m",))
    assert read_generation_defaults(model, resolve(model, lambda *_: None)).eos_token_ids == (2, 8)


@pytest.mark.parametrize("nothing", [2**32 - 1, 100])
def test_an_end_token_of_a_gguf_file_that_names_no_token_is_left_out(tmp_path, nothing):
    path = write_gguf(tmp_path / "m.gguf", {}, llama_metadata() | {"tokenizer.ggml.eos_token_id": nothing})
    model = ModelConfig(model=str(path), served_model_names=("m",))
    assert read_generation_defaults(model, resolve(model, lambda *_: None)).eos_token_ids == ()
