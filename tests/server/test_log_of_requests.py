"""What `--enable-log-requests` writes of a request: numbers and switches, and nothing that anybody has said."""

from __future__ import annotations

from octavo_engine.server.intake.admission import LOGGED, _summary
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


def test_only_scalars_of_a_list_are_logged():
    """Everything else is counted."""
    completion = CompletionBody(prompt=SECRET, max_tokens=5, temperature=0.5, **SAID)
    assert _summary(completion) == "max_tokens=5, temperature=0.5, and 9 more fields"
    chat = ChatBody(messages=[{"role": "user", "content": SECRET}], chat_template=SECRET, tools=[{SECRET: 1}], **SAID)
    assert _summary(chat) == "and 11 more fields"


def test_what_is_logged_is_a_number_or_a_switch():
    """A field of text is never added to the list by mistake."""
    fields = {**CompletionBody.model_fields, **ChatBody.model_fields}
    for name in LOGGED:
        assert "str" not in str(fields[name].annotation), name
