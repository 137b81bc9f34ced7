"""The budget of an answer's reasoning: from `thinking_token_budget` and the model's delimiters to what the core follows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import ThinkingBudget
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.answer_constraints import format_of, prompt_end
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
from octavo_engine.server.intake.tools import ToolUse
from octavo_engine.text.answer_format import AnswerFormat, Reasoning
from octavo_engine.text.answer_parser import behind_prompt

FIELD = "thinking_token_budget"


def has_reasoning(context: ServerContext) -> bool:
    """True if the delimiters of the model's reasoning are known."""
    return _with_reasoning(context, context.answer_format) is not None


async def thinking_budgets(
    context: ServerContext, body: CompletionBody | ChatBody, use: ToolUse, prompts: Sequence[Sequence[int]]
) -> list[ThinkingBudget | None]:
    """The budget of the answers to each of `prompts`; None where it has no limit, or no reasoning can come.

    Raises:
        RequestError: the model's reasoning is not known, or its end may not be drawn.
    """
    most = body.thinking_token_budget
    if most is None or most == -1:
        return [None] * len(prompts)
    if not has_reasoning(context):
        raise RequestError(
            f"{FIELD}: the delimiters of this model's reasoning are not known: leave it out, or start the server with "
            "--reasoning-parser or --reasoning-config",
            FIELD,
        )
    given = format_of(context, body) if isinstance(body, ChatBody) else context.answer_format
    answer_format = _with_reasoning(context, given)
    if answer_format is None or answer_format.reasoning is None:
        return [None] * len(prompts)  # the request's content begins with the first token
    reasoning = answer_format.reasoning
    close = [*reasoning.close]
    if use.asked and answer_format.calls is not None and reasoning.ended_by_calls:
        close += answer_format.calls.open
    end = context.config.api.reasoning_end or reasoning.close[0]
    (forced,) = await context.encode([end], FIELD, add_special_tokens=False)
    if body.allowed_token_ids and not set(forced) <= set(body.allowed_token_ids):
        raise RequestError(
            f"{FIELD}: allowed_token_ids lacks tokens of {end!r}, which ends the reasoning: add {forced}, or leave "
            f"{FIELD} out",
            FIELD,
        )
    await context.send_vocabulary()
    budget = ThinkingBudget(
        max_tokens=most,
        open=tuple(text.encode() for text in reasoning.open),
        close=tuple(text.encode() for text in close),
        forced=tuple(forced),
    )
    begun = [behind_prompt(answer_format, prompt_end(context.tokenizer, prompt))[1] for prompt in prompts]
    return [msgspec.structs.replace(budget, begun=is_begun) for is_begun in begun]


def _with_reasoning(context: ServerContext, answer_format: AnswerFormat | None) -> AnswerFormat | None:
    """The format with the delimiters of `--reasoning-config` besides its own; None if there are neither."""
    api = context.config.api
    own = None if answer_format is None else answer_format.reasoning
    if not api.reasoning_start or not api.reasoning_end:
        return None if own is None else answer_format
    if context.answer_format is not None and context.answer_format.reasoning is not None and own is None:
        return None  # the request leaves reasoning out
    base = answer_format or AnswerFormat(name="--reasoning-config")
    own = own or Reasoning(open=(), close=())
    both = msgspec.structs.replace(own, open=(*own.open, api.reasoning_start), close=(*own.close, api.reasoning_end))
    return msgspec.structs.replace(base, reasoning=both)
