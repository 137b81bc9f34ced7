"""Tokenizers out of GGUF metadata of every kind, against transformers' converter for the same metadata.

Where transformers 5.24 differs from the model's original tokenizer.json, or from llama.cpp, which wrote the file, the
original is followed: a test says so for each case.
"""

from __future__ import annotations

import unicodedata
import warnings

import pytest
from corpus import NUMBERS, TEXTS, unicode_texts
from hypothesis import given
from octavo_testing.properties import tried
from vocabularies import byte_level, octavo, sentencepiece

from octavo_engine.errors import ModelLoadError
from octavo_engine.text import merges
from octavo_engine.text.gguf_tokenizer import chat_templates

property_settings = tried(150)
OWN = "<s>a<tool>b</s> <s> </s>x"


def transformers_backend(metadata):
    """The tokenizer that transformers builds for a GGUF with this metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another project's
        from transformers.integrations.gguf import convert_gguf_tokenizer
    names = {"model": "tokenizer_type", "pre": "pre_tokenizer_type"}
    given_ = {
        names.get(key.removeprefix("tokenizer.ggml."), key.removeprefix("tokenizer.ggml.")): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], given_)
    return backend


KINDS = {
    "gpt-2": byte_level("gpt-2"),
    "default": byte_level("default"),
    "llama-bpe": byte_level("llama-bpe"),
    "qwen2": byte_level("qwen2"),
    "deepseek-r1-qwen": byte_level("deepseek-r1-qwen"),
    "tekken": byte_level("tekken"),
    "gemma": sentencepiece("gemma3"),
}
BUILT = {kind: (octavo(metadata), transformers_backend(metadata)) for kind, metadata in KINDS.items()}


def same(kind: str, text: str) -> None:
    ours, theirs = BUILT[kind]
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def composed(kind: str, text: str) -> str:
    """The text as Qwen's normalizer leaves it, on which transformers, which lacks that, must agree."""
    return unicodedata.normalize("NFC", text) if kind == "qwen2" else text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*TEXTS, *NUMBERS, OWN])
def test_each_kind_encodes_as_transformers(kind, text):
    """Every pre-tokenizer that both know."""
    same(kind, composed(kind, text))


@pytest.mark.parametrize("kind", KINDS)
@property_settings
@given(text=unicode_texts)
def test_each_kind_encodes_any_text_as_transformers(kind, text):
    """Whatever unicode has."""
    same(kind, composed(kind, text))


def test_qwen_composes_characters_first():
    """The model's tokenizer.json has the normalizer NFC, which no GGUF states and transformers does not apply."""
    ours, theirs = BUILT["qwen2"]
    assert ours.encode("e\u0301lan") == ours.encode("élan")
    assert theirs.encode("e\u0301lan").ids != theirs.encode("élan").ids


def test_llama_3_takes_whole_words_before_merges():
    """Its tokenizer.json has ignore_merges, as llama.cpp does; a GGUF does not say so, and transformers merges."""
    rules = ["h e", "l l"]
    tokens = ["h", "e", "l", "o", "he", "ll", "hello"]
    metadata = byte_level(
        "llama-bpe", tokens=tokens, merges=rules, token_type=[1] * 7, bos_token_id=None, eos_token_id=None
    )
    assert octavo(metadata).encode("hello", add_special_tokens=False) == [6]
    assert transformers_backend(metadata).encode("hello").ids == [4, 5, 3]


def test_bos_is_added_as_the_metadata_or_else_llama_cpp_says():
    """llama.cpp adds it by default for Llama 3 and for SentencePiece, and for no other."""
    for metadata, added in (
        (byte_level("gpt-2"), False),
        (byte_level("gpt-2", add_bos_token=True), True),
        (byte_level("llama-bpe"), True),
        (byte_level("llama-bpe", add_bos_token=False), False),
        (sentencepiece(), True),
        (sentencepiece(add_bos_token=False), False),
    ):
        tokenizer = octavo(metadata)
        plain = tokenizer.encode("a b", add_special_tokens=False)
        assert tokenizer.encode("a b") == ([tokenizer.bos_token_id, *plain] if added else plain)


def test_eos_is_added_only_where_the_metadata_says():
    """After the text."""
    tokenizer = octavo(byte_level(add_eos_token=True))
    assert tokenizer.encode("a")[-1] == tokenizer.eos_token_id
    assert octavo(byte_level()).encode("a")[-1] != tokenizer.eos_token_id


def test_a_turns_end_is_an_eos_too():
    """A chat model's file names it apart from the text's end."""
    assert octavo(byte_level(eot_token_id=5)).eos_token_ids == (1, 5)


@pytest.mark.parametrize("nothing", [2**32 - 1, -1, 10**6, "vocabulary's size", [1], "</s>", 1.0, True])
@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom", "unknown", "padding"])
def test_a_special_id_that_names_no_token_is_warned_of_and_ignored(name, nothing, caplog):
    """Converters write 2**32 - 1, -1 or the vocabulary's size for none."""
    build = sentencepiece if name == "unknown" else byte_level
    if nothing == "vocabulary's size":
        nothing = len(build()["tokenizer.ggml.tokens"])
    tokenizer = octavo(build(**{f"{name}_token_id": nothing}))
    assert tokenizer.decode(tokenizer.encode("hello", add_special_tokens=False)) == "hello"
    end = 2 if name == "unknown" else 1
    names_a_token = nothing == [1]  # a list is read as one
    assert tokenizer.eos_token_ids == (() if name == "eos" and not names_a_token else (end,))
    warned = f"tokenizer.ggml.{name}_token_id is {nothing!r}, which does not name one of the" in caplog.text
    assert warned is not names_a_token


def test_a_file_that_leaves_a_guess_is_warned_of(caplog):
    """The guess decides what the model sees: how text is cut before it is encoded, and which tokens are special."""
    octavo(byte_level())
    assert not caplog.text
    unsaid = byte_level()
    del unsaid["tokenizer.ggml.pre"]
    octavo(unsaid)
    assert "no tokenizer.ggml.pre" in caplog.text
    assert "a guess" in caplog.text
    unsaid = byte_level()
    del unsaid["tokenizer.ggml.token_type"]
    octavo(unsaid)
    assert "no tokenizer.ggml.token_type" in caplog.text


@pytest.mark.parametrize("text", [*TEXTS, *NUMBERS])
def test_sentencepiece_encodes_as_transformers_where_no_space_leads(text):
    """With a prefix space of its own; transformers adds none before a space or ▁, and puts it in a Metaspace."""
    ours, theirs = octavo(sentencepiece()), transformers_backend(sentencepiece())
    if not text.startswith((" ", "▁")) and "<" not in text:
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_sentencepiece_keeps_leading_spaces_as_the_original_does():
    """SentencePiece, Llama 2's tokenizer.json and llama.cpp put their space before one that is there already."""
    tokenizer = octavo(sentencepiece())
    pieces = [tokenizer.piece(index) for index in tokenizer.encode(" hello", add_special_tokens=False)]
    assert "".join(pieces) == "▁▁hello"
    assert tokenizer.decode(tokenizer.encode("  hello"), skip_special_tokens=True) == "  hello"


def test_sentencepiece_without_a_prefix_space():
    """The file may say so, and Gemma's always does."""
    for metadata in (sentencepiece(add_space_prefix=False), sentencepiece("gemma3")):
        tokenizer = octavo(metadata)
        ids = tokenizer.encode("hello", add_special_tokens=False)
        assert "".join(map(tokenizer.piece, ids)) == "hello"
        assert not tokenizer.strips_space


def test_characters_that_no_piece_has_become_bytes():
    """The text comes back from the bytes."""
    tokenizer = octavo(sentencepiece())
    ids = tokenizer.encode("\u1200", add_special_tokens=False)
    assert [tokenizer.piece(index) for index in ids[-3:]] == ["<0xE1>", "<0x88>", "<0x80>"]
    assert tokenizer.decode(ids) == "\u1200"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (byte_level("viking-7b"), "tokenizer.ggml.pre is 'viking-7b'"),
        (byte_level(model="bert"), "tokenizer.ggml.model is 'bert'"),
        (byte_level(model=None), "tokenizer.ggml.model is None"),
        (byte_level(tokens=[]), "no tokenizer.ggml.tokens"),
        (byte_level(merges=None), "no tokenizer.ggml.merges"),
        (byte_level(merges=["nope nope"]), "contradicts itself"),
        (byte_level(token_type=[1]), "token_type has 1 entries"),
        (sentencepiece(scores=None), "neither tokenizer.ggml.scores nor merges"),
        (sentencepiece(scores=[0.0]), "scores has 1 entries"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(metadata, message):
    """The key is named."""
    with pytest.raises(ModelLoadError, match=message):
        octavo(metadata)


def test_an_unknown_pre_tokenizer_says_what_to_do():
    """Which ones are known, and that the model's own tokenizer.json may be given instead."""
    with pytest.raises(ModelLoadError, match=r"llama-bpe, .*qwen2.* pass --tokenizer"):
        octavo(byte_level("viking-7b"))


def test_chat_templates_are_found_by_name():
    """The unnamed one is the default."""
    metadata = {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b", "tokenizer.chat_templates": []}
    assert chat_templates(metadata) == {"default": "a", "tool_use": "b"}


@pytest.fixture
def merge_files(tmp_path, monkeypatch):
    """A cache of its own in which even a small vocabulary's merges are kept."""
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    monkeypatch.setattr(merges, "CACHE_FROM", 0)
    return lambda: sorted((tmp_path / "merges").iterdir())


def test_merges_are_cached_and_read_back(merge_files, monkeypatch):
    """The second time they are not derived."""
    first = octavo(sentencepiece())
    (path,) = merge_files()
    monkeypatch.setattr(merges, "_derive", None)
    second = octavo(sentencepiece())
    assert [path] == merge_files()
    for text in TEXTS:
        assert second.encode(text) == first.encode(text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-5],
        lambda content: content[:40] + b"\xff" + content[41:],
        lambda content: content + b"12345678",
        lambda content: b"something else entirely",
    ],
    ids=["empty", "cut", "flipped", "longer", "foreign"],
)
def test_damaged_merges_are_derived_again(damage, merge_files):
    """The cache is good again afterwards."""
    octavo(sentencepiece())
    (path,) = merge_files()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    tokenizer = octavo(sentencepiece())
    assert tokenizer.decode(tokenizer.encode("hello world"), skip_special_tokens=True) == "hello world"
    assert path.read_bytes() == good


def test_other_scores_have_another_cache(merge_files):
    """The key is the content's hash."""
    octavo(sentencepiece())
    octavo(sentencepiece("gemma3"))
    scores = sentencepiece()["tokenizer.ggml.scores"]
    octavo(sentencepiece(scores=[2 * score for score in scores]))
    assert len(merge_files()) == 3


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    """The only cost is time."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(merges, "CACHE_FROM", 0)
    assert octavo(sentencepiece()).encode("hello")
