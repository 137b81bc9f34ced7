"""A failure after the start of a generation ends it: the engine makes no tokens that no one reads."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, MagicMock

import pytest

from octavo_engine.server.intake.admission import SHARE
from octavo_engine.server.routes import chat_completions, completions, messages, responses, tokens

HANDLERS = {
    chat_completions: chat_completions.chat_completions,
    completions: completions.completions,
    messages: messages.messages,
    responses: responses.responses,
    tokens: tokens.generate,
}
AWAITED = ("read_body", "prepare")
PLAIN = (
    "tool_use",
    "answer_reading",
    "cache_salt",
    "chat_of",
    "completion_of",
    "has_reasoning",
    "messages_of",
    "start",
)


class FailureError(Exception):
    """An error between the start and the answer."""


@pytest.mark.parametrize("module", HANDLERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_failure_after_the_start_closes_the_generation(monkeypatch, module):
    for name in (*AWAITED, *PLAIN):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, (AsyncMock if name in AWAITED else MagicMock)())
    if module is responses:
        monkeypatch.setattr(module, "_repeated", MagicMock(return_value={}))
        monkeypatch.setattr(module, "ResponsesWriter", MagicMock(side_effect=FailureError))
        monkeypatch.setattr(module, "Stored", MagicMock())
        module.read_body.return_value = MagicMock(background=False, previous_response_id=None)
        module.messages_of.return_value = []
    request = MagicMock()
    share = MagicMock(give_back=MagicMock(side_effect=FailureError))
    request.__getitem__.side_effect = lambda key: share if key is SHARE else MagicMock()
    with pytest.raises(FailureError):
        asyncio.run(HANDLERS[module](request))
    module.start.return_value.close.assert_called_once_with()
