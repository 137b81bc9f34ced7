"""Text as it streams: the same as decoding everything at once, and never taken back."""

from __future__ import annotations

import codecs
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried
from vocabularies import byte_level, octavo, sentencepiece

from octavo_engine.text.detokenizer import Detokenizer, decoded_prompt, token_offsets

TOKENIZERS = {
    "byte-level": octavo(byte_level()),
    "sentencepiece": octavo(sentencepiece()),
    "gemma": octavo(sentencepiece("gemma3")),
}
kinds = pytest.mark.parametrize("kind", TOKENIZERS)
property_settings = tried(200)


def stream(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.add(index) for index in ids), detokenizer.flush()]


@kinds
@property_settings
@given(data=st.data())
def test_any_tokens_stream_to_what_they_decode_to(kind, data):
    """Whole characters, halves of them and special tokens in any order, skipped or not."""
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
    skip = data.draw(st.booleans())
    pieces = stream(Detokenizer(tokenizer, skip_special_tokens=skip), ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@kinds
@property_settings
@given(data=st.data())
def test_text_streams_without_a_replacement_character(kind, data):
    """A character that is spread over tokens comes whole with its last one; nothing is left for the end."""
    tokenizer = TOKENIZERS[kind]
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd▁"), max_size=30))
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream(Detokenizer(tokenizer), ids)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert pieces[-1] == ""


@kinds
@property_settings
@given(data=st.data())
def test_what_follows_a_prompt_is_the_rest_of_the_text(kind, data):
    """Wherever the prompt ends, within a character too: prompt and deltas make the text of all tokens."""
    tokenizer = TOKENIZERS[kind]
    text = data.draw(st.text(st.sampled_from("ab éß日🙂 \n"), max_size=20))
    ids = tokenizer.encode(text, add_special_tokens=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(ids)))
    prompt, generated = ids[:cut], ids[cut:]
    said = tokenizer.decode(prompt, skip_special_tokens=True).rstrip("\ufffd")  # the part of a character
    pieces = stream(Detokenizer(tokenizer, prompt), generated)
    assert said + "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@kinds
@property_settings
@given(data=st.data())
def test_a_token_begins_at_the_character_that_its_first_byte_is_of(kind, data):
    """The token may begin a character, go on with one, or leave one incomplete."""
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    begins, first_bytes, position = [], [], 0
    for index in ids:
        begins.append(detokenizer.begin(index))
        detokenizer.add(index)
        first_bytes.append(position)
        position += len(tokenizer.token_bytes(index))
    text = b"".join(map(tokenizer.token_bytes, ids))
    starts = character_starts(text)
    dropped = 1 if tokenizer.strips_space and text.startswith(b" ") else 0
    for begin, first_byte, index in zip(begins, first_bytes, ids, strict=True):
        if tokenizer.token_bytes(index):
            assert begin == max(0, bisect_right(starts, first_byte) - 1 - dropped)


def character_starts(data: bytes) -> list[int]:
    """The start in `data` of each character of its decoded text; what is no character is one for each of its parts."""
    ends: dict[int, int] = {}

    def note(error):
        ends[error.start] = error.end
        return "\ufffd", error.end

    codecs.register_error("noted", note)
    starts, position = [], 0
    for character in data.decode("utf-8", "noted"):
        starts.append(position)
        position = ends.get(position) or position + len(character.encode())
    return starts


@kinds
@pytest.mark.parametrize("text", ["Hi 😀 there", "日本語 text", " a  b", "<s>a</s>b", "é\n\t😀😀"])
@pytest.mark.parametrize("special", [False, True])
def test_offsets_of_a_prompts_tokens_point_into_its_text(kind, text, special):
    """The tokenizer may add special tokens by itself, or the text spell one."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=special)
    offsets = token_offsets(tokenizer, ids, text)
    assert offsets == sorted(offsets)
    assert offsets[-1] < len(text)
    for index, offset in zip(ids, offsets, strict=True):
        own = tokenizer.token_text(index)
        spelled = text.startswith(own, offset) or text.startswith(own.removeprefix(" "), offset)
        added = special and index in {tokenizer.bos_token_id, tokenizer.eos_token_id}
        assert spelled or "\ufffd" in own or added, (own, offset)


@kinds
@property_settings
@given(data=st.data())
def test_a_prompt_and_its_continuation_are_the_whole_text(kind, data):
    """Wherever the prompt ends, also in the middle of a character: no part of the text comes twice."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(data.draw(st.text(min_size=1, max_size=20)), add_special_tokens=False)
    cut = data.draw(st.integers(1, len(ids)))
    answer = Detokenizer(tokenizer, ids[:cut], skip_special_tokens=False)
    text = decoded_prompt(tokenizer, ids[:cut], continued=True) + "".join(stream(answer, ids[cut:]))
    assert text == tokenizer.decode(ids)
    assert decoded_prompt(tokenizer, ids[:cut], continued=False) == tokenizer.decode(ids[:cut])


def test_each_character_comes_as_soon_as_it_is_complete():
    """An emoji of four byte tokens: three times nothing, then the emoji, though further bytes follow."""
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "🙂🙂".encode()]
    assert stream(Detokenizer(tokenizer, [5]), ids) == ["", "", "", "🙂", "", "", "", "🙂", ""]


def test_an_incomplete_character_at_the_end_is_flushed():
    """The flush gives one replacement character."""
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "é🙂".encode()[:-1]]
    assert stream(Detokenizer(tokenizer), ids) == ["", "é", "", "", "", "\ufffd"]


def test_the_leading_space_is_dropped_only_where_nothing_stands_before():
    """After BOS alone it goes, after a prompt's text it stays: the model wrote it."""
    tokenizer = TOKENIZERS["sentencepiece"]
    word = tokenizer.encode("hello", add_special_tokens=False)
    assert "".join(stream(Detokenizer(tokenizer, [1]), word)) == "hello"
    assert "".join(stream(Detokenizer(tokenizer, [1, *word]), word)) == " hello"


def test_special_tokens_are_text_when_they_are_not_skipped():
    """Added tokens that are not special always are."""
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("<s>a<tool>b</s>")
    assert "".join(stream(Detokenizer(tokenizer), ids)) == "a<tool>b"
    assert "".join(stream(Detokenizer(tokenizer, skip_special_tokens=False), ids)) == "<s>a<tool>b</s>"


def test_offset_is_where_the_next_tokens_text_begins():
    """In characters."""
    tokenizer = TOKENIZERS["byte-level"]
    detokenizer = Detokenizer(tokenizer)
    offsets = []
    for index in tokenizer.encode("é", add_special_tokens=False) + tokenizer.encode("xy", add_special_tokens=False):
        offsets.append(detokenizer.offset)
        detokenizer.add(index)
    assert offsets[0] == 0
    assert offsets[-1] in {1, 2}
    assert detokenizer.offset == 3


@pytest.mark.parametrize("kind", ["smollm2", "gemma3"])
def test_real_vocabularies_stream_as_they_decode(kind, request):
    """With the tokens of the two models that the tests run."""
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")

    @tried(50)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60), st.booleans())
    def check(ids, skip):
        pieces = stream(Detokenizer(tokenizer, skip_special_tokens=skip), ids)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)

    check()


def test_a_token_costs_the_same_however_long_the_text(smollm2_tokenizer):
    """No more calls per token in the last thousand than in the first: nothing is decoded twice."""
    looked_up = []

    class Counting:
        strips_space = False
        special_token_ids = frozenset()

        def token_bytes(self, index):
            looked_up.append(index)
            return smollm2_tokenizer.token_bytes(index)

    ids = smollm2_tokenizer.encode("All of this is said again. 🙂 " * 500)
    detokenizer = Detokenizer(Counting())
    for index in ids:
        detokenizer.add(index)
    assert looked_up == ids
