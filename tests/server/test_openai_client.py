"""The `openai` package works against the server unchanged."""

from __future__ import annotations

import openai
import pytest

PROMPT = "the quick brown fox"


def completion(client, **fields):
    return client.completions.create(**{"model": "fake", "prompt": PROMPT, "seed": 1, "max_tokens": 8, **fields})


def chat(client, **fields):
    messages = [{"role": "user", "content": "hello"}]
    return client.chat.completions.create(
        **{"model": "fake", "messages": messages, "seed": 1, "max_tokens": 8, **fields}
    )


def streamed_text(chunks):
    return "".join(c.choices[0].text for c in chunks if c.choices)


def test_a_completion_has_text_usage_and_the_reason_of_its_end(client):
    """A token of this model is one character."""
    answer = completion(client)
    assert len(answer.choices[0].text) == 8
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (19, 8, 27)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")


def test_the_same_seed_gives_the_same_text_streamed_or_not(client):
    """Streaming changes how a text arrives, not the text."""
    whole = completion(client).choices[0].text
    assert streamed_text(completion(client, stream=True)) == whole
    assert completion(client, seed=2).choices[0].text != whole


def test_prompts_are_texts_token_ids_or_lists_of_either(client):
    """A prompt's choices are numbered prompt by prompt."""
    ids = client.post("/../tokenize", body={"prompt": PROMPT}, cast_to=object)["tokens"]
    text = completion(client).choices[0].text
    assert completion(client, prompt=ids).choices[0].text == text
    both = completion(client, prompt=[PROMPT, "another"], n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == text
    assert completion(client, prompt=[ids, ids]).choices[1].text == text


def test_choices_of_one_request_differ_and_are_reproducible(client):
    """Each choice draws with a seed of its own, derived from the request's."""
    texts = [choice.text for choice in completion(client, n=3).choices]
    assert len(set(texts)) == 3
    assert [choice.text for choice in completion(client, n=3).choices] == texts


def test_a_chat_answers_with_the_assistants_role(client):
    """The prompt is what the chat template makes of the messages."""
    answer = chat(client)
    assert answer.choices[0].message.role == "assistant"
    assert len(answer.choices[0].message.content) == 8
    assert answer.usage.prompt_tokens == len("user:hello;>")


def test_a_streamed_chat_begins_with_the_role_and_ends_with_the_reason_and_usage(client):
    """`stream_options.include_usage` adds one last chunk without choices."""
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        == chat(client).choices[0].message.content
    )
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_continuous_usage_counts_as_it_goes(client):
    """Every chunk reports what has been used so far."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(completion(client, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 8


def test_a_stop_string_ends_the_text_before_it(client):
    """The string is left out, unless the request asks for it; the reason names it."""
    whole = completion(client).choices[0].text
    stop = whole[3:5]
    for stream in (False, True):
        answer = completion(client, stop=[stop], stream=stream)
        text = streamed_text(answer) if stream else answer.choices[0].text
        assert text == whole[: whole.index(stop)]
    answer = completion(client, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert answer.choices[0].text == whole[: whole.index(stop) + 2]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].stop_reason == stop


def test_a_stop_token_ends_the_text_and_is_named(client):
    """Stop tokens are ids; their text is left out."""
    ids = completion(client, extra_body={"return_token_ids": True}).choices[0].token_ids
    answer = completion(client, extra_body={"stop_token_ids": [ids[4]]})
    assert answer.choices[0].stop_reason == ids[4]
    assert len(answer.choices[0].text) == ids.index(ids[4])


def test_logprobs_of_a_completion_line_up_with_its_tokens(client):
    """Four lists of one length; offsets point into the text."""
    answer = completion(client, logprobs=1)
    logprobs, text = answer.choices[0].logprobs, answer.choices[0].text
    assert logprobs.tokens == list(text)
    assert logprobs.token_logprobs == [-1.0] * 8
    assert [text[offset] for offset in logprobs.text_offset] == logprobs.tokens
    assert all(token in top for token, top in zip(logprobs.tokens, logprobs.top_logprobs, strict=True))


def test_echo_puts_the_prompt_and_its_logprobs_first(client):
    """Evaluation harnesses ask for them so; with max_tokens 0 nothing is generated."""
    answer = completion(client, echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPT)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    assert len(choice.logprobs.text_offset) == len(PROMPT) + 8
    nothing = completion(client, echo=True, logprobs=1, max_tokens=0)
    assert nothing.choices[0].text == PROMPT
    assert len(nothing.choices[0].logprobs.tokens) == len(PROMPT)
    assert nothing.usage.completion_tokens == 0
    chunks = list(completion(client, echo=True, logprobs=1, stream=True))
    assert streamed_text(chunks) == choice.text
    assert sum(len(c.choices[0].logprobs.tokens) for c in chunks if c.choices and c.choices[0].logprobs) == 27


def test_logprobs_of_a_chat_have_tokens_bytes_and_the_best(client):
    """OpenAI's shape for chats."""
    content = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) == 8
    assert content[0].bytes == list(content[0].token.encode())
    streamed = chat(client, logprobs=True, stream=True)
    assert [e.token for c in streamed for e in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])] == [
        e.token for e in content
    ]


def test_an_error_is_the_packages_own_with_the_field(client):
    """The package maps statuses to its exceptions, and reads param and message out of the body."""
    with pytest.raises(openai.BadRequestError) as caught:
        completion(client, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as caught:
        completion(client, model="nobody")
    assert caught.value.param == "model"
    with pytest.raises(openai.InternalServerError, match="could not run this request") as caught:
        completion(client, prompt="!trouble")
    assert "InjectedError" not in str(caught.value), "which is for the log"
    assert len(completion(client).choices[0].text) == 8, "others go on"


def test_models_are_listed_under_every_served_name(client):
    """A name may hold a slash."""
    assert [model.id for model in client.models.list()] == ["fake", "other/name"]
    assert client.models.retrieve("other/name").max_model_len == 256
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
