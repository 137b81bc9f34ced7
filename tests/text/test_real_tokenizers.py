"""The tokenizers of real GGUF files, against what transformers makes of the same files."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from corpus import CHATS, NUMBERS, TEXTS, unicode_texts
from hypothesis import given
from octavo_testing.properties import tried
from tokenizers import pre_tokenizers

from octavo_engine.errors import RequestError
from octavo_engine.text.tokenizer import load_tokenizer

property_settings = tried(300)


@pytest.fixture(scope="session")
def smollm2_original(smollm2_saved):
    """The reference with the pre-tokenizer that the model was trained with and that its tokenizer.json has.

    transformers 5.24 does not know the GGUF's `smollm` and leaves out that digits stand alone; llama.cpp keeps it.
    """
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(smollm2_saved / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return backend


@pytest.mark.parametrize("text", TEXTS + CHATS)
def test_smollm2_encodes_as_transformers(text, smollm2_tokenizer, smollm2_reference):
    """With and without special tokens, and back."""
    for special in (True, False):
        ids = smollm2_tokenizer.encode(text, add_special_tokens=special)
        assert ids == smollm2_reference.encode(text, add_special_tokens=special).ids
    for skip in (True, False):
        assert smollm2_tokenizer.decode(ids, skip_special_tokens=skip) == smollm2_reference.decode(ids, skip)


@pytest.mark.parametrize("text", NUMBERS)
def test_smollm2_encodes_digits_one_by_one(text, smollm2_tokenizer, smollm2_original):
    """The model was trained so; transformers differs from that where spaces precede a digit."""
    assert smollm2_tokenizer.encode(text) == smollm2_original.encode(text).ids


def test_transformers_still_differs_on_digits(smollm2_reference, smollm2_original):
    """If this fails, the exception above can go."""
    assert smollm2_reference.encode("a  12").ids != smollm2_original.encode("a  12").ids


@property_settings
@given(text=unicode_texts)
def test_smollm2_encodes_any_text_as_the_original(text, smollm2_tokenizer, smollm2_original):
    """Decoding gives the text back; the vocabulary lacks a few bytes that its training never saw, which are lost."""
    ids = smollm2_tokenizer.encode(text)
    assert ids == smollm2_original.encode(text).ids
    assert smollm2_tokenizer.decode(ids) == smollm2_original.decode(ids, skip_special_tokens=False)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS + NUMBERS + CHATS)
def test_gemma3_encodes_as_transformers(text, gemma3_tokenizer, gemma3_reference):
    """With BOS and without, and back."""
    for special in (True, False):
        ids = gemma3_tokenizer.encode(text, add_special_tokens=special)
        assert ids == gemma3_reference.encode(text, add_special_tokens=special).ids
    for skip in (True, False):
        assert gemma3_tokenizer.decode(ids, skip_special_tokens=skip) == gemma3_reference.decode(ids, skip)


@pytest.mark.slow
@property_settings
@given(text=unicode_texts)
def test_gemma3_encodes_any_text_as_transformers(text, gemma3_tokenizer, gemma3_reference):
    """Decoding gives the text back."""
    ids = gemma3_tokenizer.encode(text)
    assert ids == gemma3_reference.encode(text).ids
    assert gemma3_tokenizer.decode(ids) == gemma3_reference.decode(ids, skip_special_tokens=False)


def test_special_tokens_are_those_of_the_files(smollm2_tokenizer, gemma3_tokenizer):
    """Roles and ids are compared."""
    assert smollm2_tokenizer.special_tokens["eos_token"] == "<|im_end|>"
    assert smollm2_tokenizer.eos_token_ids == (2,)
    assert smollm2_tokenizer.special_token_ids == frozenset(range(17))
    assert smollm2_tokenizer.vocab_size == 49152
    assert gemma3_tokenizer.bos_token_id == 2
    assert gemma3_tokenizer.eos_token_ids == (1,)
    assert gemma3_tokenizer.vocab_size == 262144
    assert gemma3_tokenizer.token_id("<start_of_turn>") in gemma3_tokenizer.special_token_ids


def test_tokens_have_the_bytes_that_they_write(smollm2_tokenizer, gemma3_tokenizer):
    """Parts of characters too."""
    for tokenizer in (smollm2_tokenizer, gemma3_tokenizer):
        ids = tokenizer.encode("naïve 🙃 𒀀", add_special_tokens=False)
        assert b"".join(map(tokenizer.token_bytes, ids)) == "naïve 🙃 𒀀".encode()
    assert gemma3_tokenizer.token_bytes(gemma3_tokenizer.token_id("<0xF0>")) == b"\xf0"
    assert smollm2_tokenizer.token_text(smollm2_tokenizer.encode(" the")[0]) == " the"


def test_ids_that_the_vocabulary_lacks_are_no_text(smollm2_tokenizer):
    """A model's embedding may have more rows than its tokenizer has tokens."""
    assert smollm2_tokenizer.decode([49152, 28, -1, 2**40]) == smollm2_tokenizer.decode([28])
    assert smollm2_tokenizer.piece(10**6) is None


def test_half_a_surrogate_pair_is_refused(smollm2_tokenizer):
    """JSON can spell it, UTF-8 can't."""
    with pytest.raises(RequestError, match="surrogate"):
        smollm2_tokenizer.encode("a\ud800b")


def test_threads_may_share_a_tokenizer(smollm2_tokenizer):
    """Eight of them at once get what one gets."""
    texts = [text * 20 for text in TEXTS]
    alone = [smollm2_tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(smollm2_tokenizer.encode, texts * 4))
        decoded = list(pool.map(smollm2_tokenizer.decode, together))
    assert together == alone * 4
    assert decoded[: len(texts)] == decoded[-len(texts) :]


def test_loading_is_quick(smollm2, gemma3, gemma3_tokenizer):
    """SmolLM2 in 0.2 s and Gemma, once its merges are cached, in 1.5 s; here with room for a busy machine."""
    for files, limit in ((smollm2.files, 0.2), (gemma3.files, 1.5)):
        best = min(_seconds(files) for _ in range(2))
        assert best < 3 * limit


def _seconds(files) -> float:
    start = time.process_time()
    load_tokenizer(files)
    return time.process_time() - start
