"""Answers have the keys that vLLM's have: clients read them as attributes, and a key that is absent is an error there."""

from __future__ import annotations

import itertools

import openai
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]
COMPLETION_KEYS = {
    *("id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint", "metrics"),
    *("kv_transfer_params", "ec_transfer_params"),
}
COMPLETION_CHOICE_KEYS = {
    *("index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids"),
    "routed_experts",
}
CHAT_KEYS = {*COMPLETION_KEYS, "prompt_logprobs", "prompt_token_ids", "prompt_text"}
CHAT_CHOICE_KEYS = {"index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"}
MESSAGE_KEYS = {
    *("role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"),
}
USAGE_KEYS = {
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"),
}


@pytest.mark.slow
def test_a_completion_has_the_keys_of_vllms(served):
    """Null where nothing was asked for."""
    _, answer, _ = served.post("/v1/completions", {"prompt": "hello", "max_tokens": 2})
    assert set(answer) == COMPLETION_KEYS
    assert set(answer["choices"][0]) == COMPLETION_CHOICE_KEYS
    assert set(answer["usage"]) == USAGE_KEYS


def test_a_chat_has_the_keys_of_vllms(served):
    """An answer without a tool's call has no list of them."""
    _, answer, _ = served.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2})
    assert set(answer) == CHAT_KEYS
    assert set(answer["choices"][0]) == CHAT_CHOICE_KEYS
    message = answer["choices"][0]["message"]
    assert set(message) == MESSAGE_KEYS
    assert {name for name, value in message.items() if value is None} == MESSAGE_KEYS - {"role", "content"}


def test_what_the_openai_package_does_not_know_is_an_attribute(client):
    """This holds for choices, messages and chunks."""
    choice = client.completions.create(model="fake", prompt="hello", max_tokens=1).choices[0]
    assert (choice.token_ids, choice.prompt_token_ids, choice.prompt_logprobs, choice.stop_reason) == (None,) * 4
    answer = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=1)
    assert (answer.prompt_logprobs, answer.prompt_token_ids, answer.kv_transfer_params) == (None,) * 3
    assert (answer.choices[0].message.reasoning, answer.choices[0].token_ids) == (None, None)
    for chunk in client.completions.create(model="fake", prompt="hello", max_tokens=1, stream=True):
        assert (chunk.choices[0].token_ids, chunk.choices[0].prompt_token_ids, chunk.usage) == (None,) * 3
    role, *chunks = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=1, stream=True)
    assert "token_ids" not in role.choices[0].model_dump()
    assert all(chunk.choices[0].token_ids is None for chunk in chunks)


@pytest.mark.parametrize("n", [1, 2])
def test_the_chunk_with_the_role_counts_no_token(client, n):
    """With `continuous_usage_stats`, as in vLLM; the last count is the whole."""
    chunks = list(
        client.chat.completions.create(
            model="fake",
            messages=MESSAGES,
            max_tokens=3,
            n=n,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        )
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    roles = [chunk.choices[0].delta.role is not None for chunk in chunks[:-1]]
    assert (roles[0], roles.count(True), counts[0]) == (True, n, 0)
    # Tokens that came together share a chunk; one with a role adds none.
    grown = [after - before for before, after in itertools.pairwise(counts[:-1])]
    assert [added > 0 for added in grown] == [not role for role in roles[1:]]
    assert counts[-1] == 3 * n
    assert all(
        chunk.usage.total_tokens == chunk.usage.prompt_tokens + count
        for chunk, count in zip(chunks, counts, strict=True)
    )


def test_chunks_have_no_keys_that_whole_answers_alone_have(client):
    """Neither null usage nor the prompt's fields after the first chunk, as in vLLM."""
    options = {"model": "fake", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
    stream = client.completions.create(prompt="hello", **options)
    *_, end, usage = (chunk.model_dump(exclude_unset=True) for chunk in stream)
    assert usage["system_fingerprint"].startswith("octavo-")
    assert set(end) == {"id", "object", "created", "model", "choices"}
    assert set(end["choices"][0]) == COMPLETION_CHOICE_KEYS - {"prompt_logprobs", "routed_experts"}
    assert set(usage["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    stream = client.chat.completions.create(messages=MESSAGES, **options)
    first, *_, end, usage = (chunk.model_dump(exclude_unset=True) for chunk in stream)
    assert (first["prompt_token_ids"], first["prompt_text"]) == (None, None)
    assert usage["system_fingerprint"] == client.completions.create(model="fake", prompt="a").system_fingerprint
    *others, last = client.completions.create(model="fake", prompt="a", stream=True, max_tokens=2)
    assert [chunk.system_fingerprint for chunk in [*others, last]] == [
        *[None] * len(others),
        usage["system_fingerprint"],
    ]
    assert set(end) == {"id", "object", "created", "model", "choices"}
    assert set(usage["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_an_echo_with_log_probabilities_has_those_of_the_prompt_in_vllms_form_too(served):
    """`prompt_logprobs` beside OpenAI's lists, one entry a token."""
    _, answer, _ = served.post("/v1/completions", {"prompt": "hello", "echo": True, "logprobs": 1, "max_tokens": 1})
    choice = answer["choices"][0]
    assert choice["prompt_logprobs"][0] is None
    assert len(choice["prompt_logprobs"]) == len(choice["logprobs"]["tokens"]) - 1


def test_the_message_that_an_answer_had_can_be_sent_back(client):
    """With all its keys, null and empty, as many clients do."""
    message = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=2).choices[0].message
    again = client.chat.completions.create(
        model="fake", messages=[*MESSAGES, message.model_dump(), *MESSAGES], max_tokens=2
    )
    assert again.choices[0].message.content


def test_a_chat_takes_the_token_ids_that_a_router_hands_over_in_place_of_its_messages(client):
    """The ids are those of the first server; nothing else of `kv_transfer_params` is served, and an empty list is refused."""
    first = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_tokens=2, extra_body={"return_token_ids": True}
    )

    def second(params, **fields):
        extra = {"kv_transfer_params": params, "return_token_ids": True}
        others = [{"role": "user", "content": "something else entirely"}]
        return client.chat.completions.create(model="fake", messages=others, max_tokens=2, extra_body=extra, **fields)

    handed = {"prompt_token_ids": first.prompt_token_ids, "do_remote_prefill": None}
    assert second(handed).prompt_token_ids == first.prompt_token_ids
    assert next(iter(second(handed, stream=True))).prompt_token_ids == first.prompt_token_ids
    assert second({"prompt_token_ids": None}).prompt_token_ids != first.prompt_token_ids
    for wrong in ({"prompt_token_ids": []}, {"prompt_token_ids": [10**6]}, {**handed, "do_remote_prefill": True}):
        with pytest.raises(openai.BadRequestError, match="kv_transfer_params"):
            second(wrong)


def test_all_wrong_keys_of_a_bias_are_named_at_once(client):
    """A client repairs them in one go; of very many, the first five."""
    with pytest.raises(openai.BadRequestError, match="'one', '-1', which are no token id"):
        client.chat.completions.create(
            model="fake", messages=MESSAGES, logit_bias={"one": 1, "3": 1, "-1": 1}, max_tokens=1
        )
    with pytest.raises(openai.BadRequestError, match="'x4' and 3 more, which are"):
        client.completions.create(model="fake", prompt="a", logit_bias={f"x{i}": 1 for i in range(8)}, max_tokens=1)
