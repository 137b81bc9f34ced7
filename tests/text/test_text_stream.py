"""Stop strings in a stream: found across token borders, cut exactly, and nothing held back without need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried
from vocabularies import byte_level, octavo

from octavo_engine.errors import RequestError
from octavo_engine.text.stop_strings import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS, StopStrings
from octavo_engine.text.text_stream import TextDelta, TextStream

TOKENIZER = octavo(byte_level())
small_texts = st.text(st.sampled_from("ab.é🙂\n"), max_size=40)
stops = st.lists(st.text(st.sampled_from("ab.é🙂\n"), min_size=1, max_size=5), min_size=1, max_size=4)


def letters(text: str) -> list[int]:
    """One token a byte, so that stop strings are spread over as many tokens as possible."""
    return [index for byte in text.encode() for index in (TOKENIZER.token_id(_spelling(byte)),)]


def _spelling(byte: int) -> str:
    from octavo_engine.text.pieces import BYTE_OF_CHARACTER

    return next(character for character, value in BYTE_OF_CHARACTER.items() if value == byte)


def first_stop(text: str, strings: list[str]) -> tuple[int, int, str] | None:
    """The plain way: the stop string that ends first, the longest of those that end there; (start, end, string)."""
    for end in range(1, len(text) + 1):
        ending = [string for string in strings if text[:end].endswith(string)]
        if ending:
            longest = max(ending, key=len)
            return end - len(longest), end, longest
    return None


def feed(stream: TextStream, ids: list[int], sizes: list[int]) -> tuple[list[TextDelta], int]:
    """Deltas until the stop or the end, tokens in groups of these sizes; and how many tokens counted."""
    deltas = []
    counted = 0
    position = 0
    for size in sizes:
        group = ids[position : position + size]
        position += size
        deltas.append(stream.add(group))
        counted += deltas[-1].num_tokens
        if deltas[-1].stop is not None:
            return deltas, counted
    deltas.append(stream.add(ids[position:], finished=True))
    return deltas, counted + deltas[-1].num_tokens


@tried(400)
@given(small_texts, stops, st.lists(st.integers(0, 4), max_size=12), st.booleans())
def test_a_stream_is_cut_where_the_plain_way_cuts(text, strings, sizes, include):
    """However the tokens come: the deltas are the text up to the stop string, or all of it."""
    stream = TextStream(TOKENIZER, stop=StopStrings(strings), include_stop_str_in_output=include)
    deltas, counted = feed(stream, letters(text), sizes)
    said = "".join(delta.text for delta in deltas)
    found = first_stop(text, strings)
    if found is None:
        assert said == text
        assert deltas[-1].stop is None
        assert counted == len(text.encode())
    else:
        start, end, string = found
        assert said == text[: end if include else start]
        assert deltas[-1].stop == string
        assert counted == len(text[:end].encode())


@tried(300)
@given(small_texts, stops)
def test_no_more_is_held_back_than_could_become_a_stop_string(text, strings):
    """After each character: the longest end of the text that begins a stop string."""
    stream = TextStream(TOKENIZER, stop=StopStrings(strings))
    said = ""
    for end in range(1, len(text) + 1):
        delta = stream.add(letters(text[end - 1]))
        said += delta.text
        if delta.stop is not None:
            break
        held = max(
            (n for s in strings for n in range(1, min(len(s), end + 1)) if text[:end].endswith(s[:n])), default=0
        )
        assert said == text[: end - held]


def test_the_end_releases_what_was_held():
    """A text that ends within the beginning of a stop string keeps it."""
    stream = TextStream(TOKENIZER, stop=StopStrings(["</end>"]))
    assert stream.add(letters("ok</e")).text == "ok"
    assert stream.add([], finished=True).text == "</e"


def test_a_token_that_ended_the_sequence_is_counted_but_no_text():
    """Unless stop strings are included."""
    ids = [*letters("a"), TOKENIZER.token_id("<tool>")]
    for include, text in ((False, "a"), (True, "a<tool>")):
        stream = TextStream(TOKENIZER, include_stop_str_in_output=include)
        delta = stream.add(ids, finished=True, ended_by_token=True)
        assert (delta.text, delta.num_tokens, delta.stop) == (text, 2, None)


def test_a_stop_string_can_be_completed_by_the_last_token():
    """The reason of the end is then the stop string."""
    stream = TextStream(TOKENIZER, stop=StopStrings(["END"]))
    stream.add(letters("an EN"))
    assert stream.add(letters("D"), finished=True) == TextDelta("", 1, "END", (5,))


def test_stop_strings_within_min_tokens_do_not_count():
    """One that ends later does, though it began before."""
    stream = TextStream(TOKENIZER, stop=StopStrings(["ab"]), min_tokens=3)
    deltas = [stream.add(letters(letter)) for letter in "abaab"]
    assert "".join(delta.text for delta in deltas) == "aba"
    assert [delta.stop for delta in deltas] == [None, None, None, None, "ab"]
    stream = TextStream(TOKENIZER, stop=StopStrings(["ab"]), min_tokens=1)
    assert [stream.add(letters(letter)).stop for letter in "ab"] == [None, "ab"]


def test_offsets_are_where_each_tokens_text_begins():
    """In characters of the whole text, what is held back included."""
    stream = TextStream(TOKENIZER, stop=StopStrings(["zz"]))
    assert stream.add(letters("abz")).offsets == (0, 1, 2)
    assert stream.add(letters("éa")).offsets == (3, 3, 4)


@pytest.mark.parametrize(
    "strings", [[""], ["a"] * (MAX_STOP_STRINGS + 1), ["a" * (MAX_STOP_CHARACTERS + 1)]], ids=["empty", "many", "long"]
)
def test_stop_strings_that_cannot_be_honoured_are_refused(strings):
    """The field is named."""
    with pytest.raises(RequestError) as refused:
        StopStrings(strings)
    assert refused.value.param == "stop"
