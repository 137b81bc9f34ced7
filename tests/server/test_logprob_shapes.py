"""Log-probabilities where a text is not a token: parts of characters, the whole vocabulary, special tokens."""

from __future__ import annotations

import msgspec
import pytest
from octavo_testing.served import Served
from raw_http import chunks_of

from octavo_engine.messages import TokenLogprob
from octavo_engine.server.answer.logprobs import LogprobFormat
from octavo_engine.text.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def all_logprobs(fake_model):
    """A server without a limit."""
    with Served(fake_model, "--max-logprobs", "-1") as server:
        yield server


@pytest.mark.parametrize(
    ("path", "fields", "read"),
    [
        ("/v1/completions", {"logprobs": -1}, lambda choice: choice["logprobs"]["top_logprobs"][0]),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": -1}, lambda choice: choice["logprobs"]["content"]),
    ],
)
def test_minus_1_asks_for_the_whole_vocabulary(all_logprobs, served, path, fields, read):
    """Where the server's limit is lifted; elsewhere it is more than the limit."""
    body = {"prompt": "a"} if "chat" not in path else {"messages": [{"role": "user", "content": "a"}]}
    status, answer, _ = all_logprobs.post(path, {**body, "max_tokens": 1, **fields})
    assert status == 200, answer
    assert read(answer["choices"][0])
    assert all_logprobs.post(path, {**body, "max_tokens": 1, "prompt_logprobs": -1})[0] == 200
    for refused in (fields, {"prompt_logprobs": -1}):
        status, answer, _ = served.post(path, {**body, "max_tokens": 1, **refused})
        assert status == 400
        assert "--max-logprobs" in answer["error"]["message"]
        assert answer["error"]["param"] in {"logprobs", "prompt_logprobs"}
    assert all_logprobs.post(path, {**body, "prompt_logprobs": -2})[0] == 400


def test_the_drawn_token_comes_first_and_keeps_its_own_number():
    """Several tokens share the text of a broken character; none hides another."""
    tokenizer = byte_tokenizer()
    ids = [tokenizer.encode("😀")[0], tokenizer.encode("é")[0], tokenizer.encode("日")[0]]
    assert {tokenizer.token_text(index) for index in ids} == {"\ufffd"}
    entry = TokenLogprob(ids[1], -2.0, 3, [(ids[0], -0.5), (ids[2], -1.0), (ids[1], -2.0), (65, -3.0)])
    text = LogprobFormat(tokenizer, 4, as_token_ids=False)
    (top,) = text.completion([entry], [ids[1]], [0], 0).top_logprobs
    assert list(msgspec.json.decode(top).items()) == [
        ("\ufffd", -2.0),
        (f"token_id:{ids[0]}", -0.5),
        (f"token_id:{ids[2]}", -1.0),
        (tokenizer.token_text(65), -3.0),
    ]
    by_id = LogprobFormat(tokenizer, 1, as_token_ids=True)
    (top,) = by_id.completion([entry], [ids[1]], [0], 0).top_logprobs
    assert msgspec.json.decode(top) == {f"token_id:{ids[1]}": -2.0, f"token_id:{ids[0]}": -0.5}


@pytest.mark.parametrize("prompt", ["Hi 😀 there", "日本語 text", "e\u0301 é", "<s>a</s> b", "plain"])
@pytest.mark.parametrize("stream", [False, True])
def test_offsets_are_characters_of_the_echoed_text(served, prompt, stream):
    """Parts of one character begin where it begins; what follows is found at its offset."""
    body = {"prompt": prompt, "logprobs": 0, "echo": True, "max_tokens": 3, "seed": 1}
    if stream:
        chunks = [c["choices"][0] for c in chunks_of(served.post("/v1/completions", {**body, "stream": True})[1])]
        text = "".join(chunk["text"] for chunk in chunks)
        tokens = [token for chunk in chunks if chunk["logprobs"] for token in chunk["logprobs"]["tokens"]]
        offsets = [offset for chunk in chunks if chunk["logprobs"] for offset in chunk["logprobs"]["text_offset"]]
    else:
        choice = served.post("/v1/completions", body)[1]["choices"][0]
        text, tokens, offsets = choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert text.startswith(prompt)
    assert len(tokens) == len(offsets)
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        assert token == "\ufffd" or text[offset : offset + len(token)] == token


def test_a_truncated_prompt_is_echoed_as_the_model_read_it(served):
    """Its offsets are those of what is echoed."""
    body = {"prompt": "abcdef", "truncate_prompt_tokens": 2, "echo": True, "logprobs": 0, "max_tokens": 0}
    choice = served.post("/v1/completions", body)[1]["choices"][0]
    assert choice["text"] == "ef"
    assert choice["logprobs"]["text_offset"] == [0, 1]
