"""A suffix counts in every prompt: what that makes too long is refused before it is put together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from octavo_engine.errors import RequestError
from octavo_engine.server.intake import infilling
from octavo_engine.server.intake.infilling import infilled_prompts
from octavo_engine.server.intake.protocol import CompletionBody

MARKERS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


class Context(SimpleNamespace):
    """A server whose tokens are characters, and whose model has a context of 100 of them."""

    max_model_len = 100
    limits = SimpleNamespace(request_tokens=300)
    tokenizer = SimpleNamespace(token_id={marker: 900 + i for i, marker in enumerate(MARKERS)}.get)

    def check_length(self, text, param):
        pass

    async def encode(self, texts, param, *, add_special_tokens):
        return [[ord(c) for c in text] for text in texts]


def infilled(**fields):
    return asyncio.run(infilled_prompts(Context(), CompletionBody(**fields)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"prompt": "a", "suffix": "b" * 97},
            "maximum context length is 100 tokens, and a prompt with its suffix has 101",
        ),
        ({"prompt": ["a"] * 6, "suffix": "b" * 50}, "have 324 tokens"),
        ({"prompt": ["a"] * 3, "suffix": "b" * 50, "n": 2}, "have 324 tokens"),
        ({"prompt": [[1], [2] * 60], "suffix": "b" * 50}, "suffix has 113"),
    ],
)
def test_what_a_suffix_makes_too_long_is_refused_before_it_is_filled_in(monkeypatch, fields, says):
    """A suffix of 500,000 tokens after 288 prompts would be lists of 144 million."""
    monkeypatch.setattr(infilling, "filled", lambda *_: pytest.fail("it was put together"))
    with pytest.raises(RequestError, match=says) as refused:
        infilled(**fields)
    assert refused.value.param == "suffix"


def test_what_fits_is_filled_in():
    assert infilled(prompt=["a", "c"], suffix="b" * 96) == [
        [900, ord(prefix), 901, *[ord("b")] * 96, 902] for prefix in "ac"
    ]
