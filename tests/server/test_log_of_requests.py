"""`--enable-log-requests` writes a request's numbers and flags, and nothing of its texts or tokens."""

from __future__ import annotations

from octavo_engine.server.intake.admission import _summary
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody

SECRET = "SECRET"
SAID = {
    "user": SECRET,
    "cache_salt": SECRET,
    "request_id": SECRET,
    "metadata": {SECRET: SECRET},
    SECRET: SECRET,
    "stop": [SECRET],
    "bad_words": [SECRET],
    "model": SECRET,
}


def test_numbers_and_flags_are_logged():
    """Everything else is counted."""
    completion = CompletionBody(prompt=SECRET, max_tokens=5, temperature=0.5, **SAID)
    assert _summary(completion) == "temperature=0.5, max_tokens=5, and 9 more fields"
    chat = ChatBody(messages=[{"role": "user", "content": SECRET}], chat_template=SECRET, tools=[{SECRET: 1}], **SAID)
    assert _summary(chat) == "and 11 more fields"


def test_tokens_are_not_logged():
    """Tokens are numbers, and reveal as much as a text."""
    body = CompletionBody(
        prompt=[31, 32], stop_token_ids=[33], allowed_token_ids=[34], logit_bias={"35": 36.0}, ignore_eos=True
    )
    assert _summary(body) == "ignore_eos=True, and 4 more fields"
