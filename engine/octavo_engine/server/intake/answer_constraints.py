"""The grammar of a request's answer: of its content, as the request's fields have it, and of the calls that it may make."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.limits import MAX_GRAMMAR_CHARACTERS
from octavo_engine.server.intake.prompts import template_variables
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
from octavo_engine.server.intake.schema_bounds import check_schema
from octavo_engine.server.intake.structured_outputs import grammar_of
from octavo_engine.server.intake.tools import ToolUse
from octavo_engine.text.answer_format import AnswerFormat
from octavo_engine.text.answer_grammar import GrammarError, answer_grammar, tool_grammar
from octavo_engine.text.answer_parser import behind_prompt
from octavo_engine.text.tokenizer import Tokenizer

PROMPT_END = 16  # tokens of a prompt that are looked at for the beginning or the end of reasoning


def prompt_end(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The text that a prompt ends with, as far as it shows whether its answer begins with reasoning."""
    return tokenizer.decode(prompt[-PROMPT_END:])


def format_of(context: ServerContext, body: ChatBody) -> AnswerFormat | None:
    """The format of the answers to a chat; without reasoning where content that is constrained begins with the first token.

    As in vLLM, `include_reasoning: false` has that effect beside a constraint; alone it only hides the reasoning.
    """
    answer_format = _switched(context, body)
    constrained = body.response_format is not None and body.response_format.type != "text"
    if answer_format is None or body.include_reasoning or not (constrained or body.structured is not None):
        return answer_format
    return msgspec.structs.replace(answer_format, reasoning=None)


def _switched(context: ServerContext, body: ChatBody) -> AnswerFormat | None:
    """The server's format, whose reasoning begins unasked or not as the chat template's variables say."""
    answer_format = context.answer_format
    reasoning = None if answer_format is None else answer_format.reasoning
    if answer_format is None or reasoning is None or not reasoning.switches:
        return answer_format
    variables = template_variables(context, body)
    given = [variables[name] for name in reasoning.switches if name in variables]
    if not given or any(given) == reasoning.starts_open:
        return answer_format
    changed = msgspec.structs.replace(reasoning, starts_open=any(given))
    return msgspec.structs.replace(answer_format, reasoning=changed)


def request_grammar(
    context: ServerContext, body: CompletionBody | ChatBody, use: ToolUse, prompt: Sequence[int]
) -> str:
    """The grammar that an answer to `prompt` must match; empty if nothing constrains it.

    Calls are held to their schemas where one is required, and in answers with a tool that is `strict`. A format for content
    leaves room for reasoning before it, and for calls in its place.

    Raises:
        RequestError: a field asks for what no grammar can be made of; names it.
    """
    content = grammar_of(body.response_format, body.structured, context.special_token)
    answer_format = format_of(context, body) if isinstance(body, ChatBody) else None
    if answer_format is None:
        return content
    answer_format, opened = behind_prompt(answer_format, prompt_end(context.tokenizer, prompt))
    if use.mode == "required":
        content = ""  # the answer has none
    elif not content and not (use.mode == "auto" and any(tool["function"].get("strict") is True for tool in use.tools)):
        return ""
    if not use.asked:
        answer_format = msgspec.structs.replace(answer_format, calls=None)
        if answer_format.reasoning is None and answer_format.content is None:
            return content
    return _checked(_grammar(context, answer_format, content, use, opened=opened))


def _grammar(context: ServerContext, answer_format: AnswerFormat, content: str, use: ToolUse, *, opened: bool) -> str:
    for tool in use.tools:
        try:
            check_schema(tool["function"].get("parameters"))
        except RequestError as error:
            raise RequestError(f"tools: the parameters of {tool['function']['name']}: {error}", "tools") from error
    try:
        if content:
            return answer_grammar(
                answer_format,
                content,
                use.tools,
                token_of=context.special_token,
                parallel=use.parallel,
                starts_in_reasoning=opened,
            )
        return tool_grammar(
            answer_format,
            use.tools,
            "required" if use.mode == "required" else "auto",
            token_of=context.special_token,
            parallel=use.parallel,
            starts_in_reasoning=opened,
        )
    except RequestError as error:
        raise RequestError(f"tools: {error}", "tools") from error
    except GrammarError as error:
        raise RequestError(f"tools: {error}: leave out strict, or send tool_choice 'auto'", "tools") from error


def _checked(grammar: str) -> str:
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        raise RequestError(
            f"tools have {len(grammar)} characters as a grammar; at most {MAX_GRAMMAR_CHARACTERS} are compiled: send fewer, "
            "or with smaller schemas",
            "tools",
        )
    return grammar
