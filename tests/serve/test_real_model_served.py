"""A real model, served by the native executor over HTTP, without torch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from octavo_testing.served import Served
from openai import AsyncOpenAI, OpenAI

from octavo_engine.text.tokenizer import load_tokenizer

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server(smollm2):
    """SmolLM2 as a user would serve it, with a small KV cache."""
    arguments = ("--served-model-name", "smol", "--dtype", "bfloat16", "--kv-cache-memory-bytes", "200M")
    arguments += ("--enable-prompt-tokens-details",)
    with Served(smollm2.model, *arguments, real=True) as server:
        yield server


def test_it_answers_a_question_streamed_and_not(server):
    """Greedily, so the answer is known."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        ask = {"model": "smol", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
        answer = client.chat.completions.create(**ask).choices[0]
        assert answer.message.content == "The capital of France is Paris."
        assert answer.finish_reason == "stop"
        chunks = client.chat.completions.create(**ask, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer.message.content


def drawn(vocabulary, tokenizer):
    """Parameters of an answer of 32 tokens that are drawn from all, or from pieces of characters."""
    fields = {"temperature": 1.0, "max_tokens": 32, "seed": 7, "extra_body": {"ignore_eos": True}}
    if vocabulary == "pieces of characters":
        pieces = [i for i in tokenizer.encode("日本語 中文 ñandú 😀🎉") if not _is_text(tokenizer.token_bytes(i))]
        fields["extra_body"] |= {"allowed_token_ids": sorted({*pieces, *tokenizer.encode(" to be")})}
    return fields


def _is_text(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("vocabulary", ["words", "pieces of characters"])
def test_a_text_is_its_tokens_however_it_is_sent(server, smollm2, vocabulary):
    """Whole and streamed, by the bytes of its log-probabilities and up to a stop string that begins within a token.

    A character whose bytes lie in several tokens comes once it is whole; bytes of none are U+FFFD.
    """
    tokenizer = load_tokenizer(smollm2.files)
    with OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        ask = {"model": "smol", "messages": QUESTION, **drawn(vocabulary, tokenizer)}
        whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices[0]
        text, tokens = whole.message.content, whole.logprobs.content
        assert len(tokens) == 32
        assert bytes(b for token in tokens for b in token.bytes).decode(errors="replace") == text
        assert all(len(token.top_logprobs) == 2 for token in tokens)
        assert any(len(token.bytes) > 1 for token in tokens), "tokens of several characters"
        assert ("\N{REPLACEMENT CHARACTER}" in text) == (vocabulary != "words")

        chunks = [c.choices[0] for c in client.chat.completions.create(**ask, logprobs=True, stream=True) if c.choices]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == text
        streamed = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
        assert [token.bytes for token in streamed] == [token.bytes for token in tokens]
        assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in tokens], abs=1e-4)

        stop = text[len(text) // 2 - 2 : len(text) // 2 + 3]
        expected = text[: text.index(stop)]
        stopped = client.chat.completions.create(**ask, stop=stop).choices[0]
        assert (stopped.message.content, stopped.finish_reason) == (expected, "stop")
        chunks = [c.choices[0] for c in client.chat.completions.create(**ask, stop=stop, stream=True) if c.choices]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == expected


def test_neither_process_has_torch(server):
    """The mapped files show that none of its libraries is loaded either."""
    for pid in (server.process.pid, server.core_pid):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "torch" not in mapped
        assert "octavo_engine" in mapped or "msgspec" in mapped


@pytest.mark.slow
async def test_64_streamed_chats_finish_and_those_cut_off_leave_no_page_in_use(server):
    """The `openai` package against the real engine."""
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=240) as client:

        async def one(i: int) -> str | None:
            messages = [{"role": "user", "content": f"Tell me about the number {i}."}]
            stream = await client.chat.completions.create(
                model="smol", messages=messages, max_tokens=24, stream=True, seed=i, extra_body={"ignore_eos": True}
            )
            reason, count = None, 0
            async for chunk in stream:
                count += 1
                reason = chunk.choices[0].finish_reason or reason
                if i % 2 and count == 8:
                    await stream.close()
                    return "cut"
            return reason

        reasons = await asyncio.gather(*(one(i) for i in range(64)))
    assert reasons == ["length", "cut"] * 32
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        await asyncio.to_thread(server.wait_for_metric, name, 0)


def test_a_prefix_that_was_seen_is_not_computed_again(server):
    """Chat applications rely on it; the usage shows it."""
    system = {"role": "system", "content": "You are an expert of Kubernetes. " * 10}
    cached = []
    for question in ("What is a Pod?", "What is a Service?"):
        body = {"messages": [system, {"role": "user", "content": question}], "max_tokens": 2}
        _, answer, _ = server.post("/v1/chat/completions", body)
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == 0
    assert cached[1] >= 64
