"""BERT's tokenizers: out of tokenizer.json or vocab.txt alike, pairs with their types, and cuts that keep what encloses."""

from __future__ import annotations

import pytest
from octavo_testing.real_models import fetch

from octavo_engine.errors import ModelLoadError
from octavo_engine.text.tokenizer import load_tokenizer_json, load_wordpiece

TEXTS = [
    "",
    "A harbour at night.",
    "Zürich, CAFÉ & naïveté!",
    "四時半です",
    "unaffable-ness\n\tof   spaces",
    "[MASK] word",
]


@pytest.fixture(scope="module")
def tokenizers():
    """MiniLM's tokenizer from its tokenizer.json, and from its vocab.txt."""
    folder = fetch("minilm", "package://all-minilm-l6-v2").files.folder
    return load_tokenizer_json(folder / "tokenizer.json"), load_wordpiece(folder / "vocab.txt")


@pytest.mark.parametrize("text", TEXTS)
def test_a_vocab_txt_gives_what_the_tokenizer_json_gives(tokenizers, text):
    one, other = tokenizers
    assert one.encode(text) == other.encode(text)
    assert one.encode_pair(text, "a boat") == other.encode_pair(text, "a boat")


def test_the_second_text_of_a_pair_begins_behind_the_first_ones_separator(tokenizers):
    one, _ = tokenizers
    first, second = one.encode("a boat"), one.encode("the night")
    token_ids, second_segment = one.encode_pair("a boat", "the night")
    assert token_ids == first + second[1:]
    assert second_segment == len(first)


def test_what_is_cut_keeps_the_tokens_that_enclose_a_text(tokenizers):
    one, _ = tokenizers
    whole = one.encode("one two three four five")
    assert one.encode_within("one two three four five", 5) == [*whole[:4], whole[-1]]
    assert one.encode_within("one two three four five", 99) == whole


@pytest.mark.parametrize("most", [3, 4, 7, 8, 12, 99])
def test_of_a_pair_the_longer_text_is_cut(tokenizers, most):
    one, _ = tokenizers
    short, long = "a boat", "the lamps of all boats are lit at night"
    token_ids, second = one.encode_pair(short, long, most)
    assert len(token_ids) == min(most, len(one.encode_pair(short, long)[0]))
    if most >= 8:  # room for the short one whole
        assert token_ids[:second] == one.encode(short)


def test_pieces_become_text_again(tokenizers):
    one, _ = tokenizers
    assert one.decode(one.encode("unaffable boats", add_special_tokens=False)) == "unaffable boats"


def test_a_vocabulary_without_a_special_token_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\na\n")
    with pytest.raises(ModelLoadError, match=r"vocab\.txt: the vocabulary has no \[SEP\], the sep_token"):
        load_wordpiece(tmp_path / "vocab.txt")
