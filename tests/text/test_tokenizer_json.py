"""Tokenizers from a folder's tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json

import pytest
from corpus import TEXTS
from vocabularies import byte_level, octavo, sentencepiece

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.text.gguf_tokenizer import build_tokenizer
from octavo_engine.text.tokenizer import load_tokenizer, load_tokenizer_json


@pytest.fixture
def folder(tmp_path):
    """Writes a byte-level tokenizer without a post-processor of its own, and any config beside it."""

    def write(config=None, metadata=None, **changes):
        backend, _ = build_tokenizer(metadata or byte_level())
        content = json.loads(backend.to_str())
        content["post_processor"] = None
        content |= changes
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        if config is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return tmp_path / "tokenizer.json"

    return write


@pytest.mark.parametrize("metadata", [byte_level("llama-bpe"), sentencepiece(), sentencepiece("gemma3")])
def test_a_saved_tokenizer_reads_back_the_same(metadata, tmp_path):
    """Whichever kind it is."""
    backend, _ = build_tokenizer(metadata)
    backend.save(str(tmp_path / "tokenizer.json"))
    read, built = load_tokenizer_json(tmp_path / "tokenizer.json"), octavo(metadata)
    for text in TEXTS:
        ids = read.encode(text)
        assert ids == built.encode(text)
        assert read.decode(ids) == built.decode(ids)
    assert read.strips_space == built.strips_space


@pytest.mark.slow
def test_real_tokenizers_read_back_the_same(gemma3_saved, gemma3_tokenizer):
    """What transformers saved of Gemma's GGUF, roles of its tokens included."""
    read = load_tokenizer_json(gemma3_saved / "tokenizer.json")
    for text in TEXTS:
        assert read.encode(text) == gemma3_tokenizer.encode(text)
    assert read.bos_token_id == gemma3_tokenizer.bos_token_id
    assert read.special_tokens["eos_token"] == "<eos>"
    assert read.special_token_ids == gemma3_tokenizer.special_token_ids


def test_roles_and_flags_come_from_the_config(folder):
    """Tokens as strings or as objects; BOS only when it is asked for."""
    roles = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    for flags, before in (({}, []), ({"add_bos_token": True}, [0]), ({"add_bos_token": False}, [])):
        tokenizer = load_tokenizer_json(folder({**roles, **flags}))
        assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
        assert tokenizer.eos_token_ids == (1,)
        assert tokenizer.encode("a") == before + tokenizer.encode("a", add_special_tokens=False)


def test_the_files_post_processor_stands_unless_the_config_has_a_flag(folder):
    """transformers does the same."""
    processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    roles = {"bos_token": "<s>"}
    assert load_tokenizer_json(folder(roles, post_processor=processor)).encode("a")[0] == 0
    flagged = load_tokenizer_json(folder({**roles, "add_bos_token": False}, post_processor=processor))
    assert flagged.encode("a")[0] != 0


def test_tokens_that_only_the_config_declares_are_added(folder):
    """Older folders have such tokens; a flag that differs there wins."""
    config = {
        "added_tokens_decoder": {"2": {"content": "<tool>", "special": True, "normalized": False}},
        "additional_special_tokens": ["<extra>"],
    }
    tokenizer = load_tokenizer_json(folder(config))
    assert tokenizer.encode("<tool>", add_special_tokens=False) == [2]
    assert 2 in tokenizer.special_token_ids
    (extra,) = tokenizer.encode("<extra>", add_special_tokens=False)
    assert extra in tokenizer.special_token_ids


def test_truncation_and_padding_of_the_file_are_ignored(folder):
    """Both are for training: a prompt is never silently cut."""
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<s>",
    }  # fmt: skip
    tokenizer = load_tokenizer_json(folder(truncation=truncation, padding=padding))
    assert tokenizer.decode(tokenizer.encode("one two three four")) == "one two three four"


@pytest.mark.parametrize(
    ("template", "name", "content", "expected"),
    [
        ("from the config", None, None, {"default": "from the config"}),
        ([{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}], None, None,
         {"default": "a", "rag": "b"}),
        ("from the config", "chat_template.jinja", "from its file", {"default": "from its file"}),
        (None, "chat_template.json", '{"chat_template": "from JSON"}', {"default": "from JSON"}),
        (None, None, None, {}),
    ],
)  # fmt: skip
def test_chat_templates_are_read_from_every_place(template, name, content, expected, folder, tmp_path):
    """A file of its own wins over the config."""
    path = folder({"chat_template": template})
    if name is not None:
        (tmp_path / name).write_text(content)
    tokenizer = load_tokenizer_json(path, None if name is None else tmp_path / name)
    assert tokenizer.chat_templates == expected


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path):
    """A safetensors model needs one."""
    files = ModelFiles(folder=tmp_path, config=None, weights=(), weights_format="safetensors", tokenizer=None)
    with pytest.raises(ModelLoadError, match=r"no tokenizer\.json: pass --tokenizer"):
        load_tokenizer(files)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "can't be read as a tokenizer"),
        ("tokenizer_config.json", "{", "can't be read as JSON"),
        ("tokenizer_config.json", "[]", "it holds no JSON object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"one": {"content": "a"}}}', "isn't a tokenizer's config"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "isn't a tokenizer's config"),
        ("tokenizer_config.json", '{"extra_special_tokens": 7}', "isn't a tokenizer's config"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "isn't a tokenizer's config"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"),
        ("tokenizer_config.json", '{"bos_token": 7}', "a special token that is not a string"),
    ],
)
def test_files_that_cannot_be_read_are_named(file, content, message, folder, tmp_path):
    """In one sentence."""
    path = folder()
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelLoadError, match=message) as refused:
        load_tokenizer_json(path)
    assert "tokenizer" in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_decoder_that_cannot_stream_is_refused(folder):
    """The text of speech's CTC depends on its neighbours."""
    decoder = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
    with pytest.raises(ModelLoadError, match="decoder CTC"):
        load_tokenizer_json(folder(decoder=decoder))
    with pytest.raises(ModelLoadError, match="no decoder"):
        load_tokenizer_json(folder(decoder=None))
