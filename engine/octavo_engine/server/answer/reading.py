"""Reading of the answers to one request: the model's format, as far as the request needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.answer_constraints import format_of, prompt_end
from octavo_engine.server.intake.protocol import ChatBody
from octavo_engine.server.intake.tools import ToolUse
from octavo_engine.text.answer_format import AnswerFormat
from octavo_engine.text.answer_parser import AnswerParser, behind_prompt, ids_of
from octavo_engine.text.tokenizer import Tokenizer


class AnswerReading:
    """The parsers of a request's choices, and the special tokens whose text they need."""

    def __init__(
        self, answer_format: AnswerFormat, tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]], num_earlier: int
    ) -> None:
        """`num_earlier`: calls of the chat so far."""
        self._format = answer_format
        self._tokenizer = tokenizer
        self._tools = tools
        self._num_earlier = num_earlier
        self.kept_tokens = tokenizer.special_tokens_in(answer_format.literals)

    @property
    def has_reasoning(self) -> bool:
        return self._format.reasoning is not None

    def parser(self, prompt: Sequence[int]) -> AnswerParser:
        """A parser for one answer to the tokens `prompt`."""
        calls = self._format.calls
        answer_format, opened = behind_prompt(self._format, prompt_end(self._tokenizer, prompt))
        return AnswerParser(
            answer_format,
            tools=self._tools,
            starts_in_reasoning=opened,
            new_id=None if calls is None else ids_of(calls, self._num_earlier),
        )


def answer_reading(context: ServerContext, body: ChatBody, use: ToolUse) -> AnswerReading | None:
    """The reading of the answers to a chat; None: their text is content as it is."""
    answer_format = format_of(context, body)
    if answer_format is None:
        return None
    if not use.asked:
        answer_format = msgspec.structs.replace(answer_format, calls=None)
    if answer_format.reasoning is None and answer_format.content is None and answer_format.calls is None:
        return None
    num_earlier = sum(len(calls) for message in body.messages if isinstance(calls := message.get("tool_calls"), list))
    return AnswerReading(answer_format, context.tokenizer, use.tools, num_earlier)
