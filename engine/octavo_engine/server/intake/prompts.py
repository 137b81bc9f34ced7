"""Turns a body's texts, messages or token ids into the token ids of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from octavo_engine.errors import RequestError
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.infilling import infilled_prompts, infilling_ends
from octavo_engine.server.intake.limits import FEW_TOKENS, MAX_MESSAGES
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody, TokenizeBody
from octavo_engine.text.detokenizer import decoded_prompt
from octavo_engine.text.turn_end import turn_ends

T = TypeVar("T")


async def encode_prompts(
    context: ServerContext, body: CompletionBody | ChatBody | TokenizeBody, *, must_fit: bool
) -> list[list[int]]:
    """The token ids of each prompt: of each text, of the rendered chat, or as they were sent, by a router too.

    With `must_fit`, a text that is too long for the model's context is refused before it is tokenized.

    Raises:
        RequestError: the messages, the template, a text or a token id is wrong; names the field.
    """
    field, special, texts = "prompt", body.add_special_tokens, []
    forwarded = (
        body.kv_transfer_params.prompt_token_ids if isinstance(body, ChatBody) and body.kv_transfer_params else None
    )
    if forwarded is not None:
        context.check_token_ids(forwarded, "kv_transfer_params.prompt_token_ids")
        return [forwarded]
    if isinstance(body, CompletionBody):
        given = body.prompts
        if body.suffix:
            return await infilled_prompts(context, body)
        if given and not isinstance(given[0], str):
            for token_ids in given:
                context.check_token_ids(token_ids, "prompt")
            return given
        texts = given
    elif body.messages is not None:
        field, texts, special = "messages", [await render(context, body)], bool(special)
    elif body.prompt is not None:
        texts, special = [body.prompt], special is None or special
    if must_fit:
        for text in texts:
            context.check_length(text, field)
    return await context.encode(texts, field, add_special_tokens=bool(special))


async def prompt_offsets(context: ServerContext, body: CompletionBody | ChatBody) -> list[list[tuple[int, int]] | None]:
    """The places of each prompt's tokens in its text, as far as `truncate` keeps them; None of a prompt of token ids."""
    special = body.add_special_tokens
    if isinstance(body, CompletionBody) and body.suffix:
        return [None] * len(body.prompts)
    given = [await render(context, body)] if isinstance(body, ChatBody) else body.prompts

    def locate() -> list[list[tuple[int, int]] | None]:
        offsets = context.tokenizer.offsets
        return [offsets(text, add_special_tokens=special) if isinstance(text, str) else None for text in given]

    found = await context.pools.run("encode_long", locate)
    return [None if whole is None else truncate(context, body, whole) for whole in found]


async def render(context: ServerContext, body: ChatBody | TokenizeBody) -> str:
    """The text of a chat, from the chat template.

    Raises:
        RequestError: the messages or the template are wrong, or the request may not bring a template.
    """
    if body.chat_template is not None and not context.config.server.allow_request_chat_template:
        raise RequestError(
            "chat_template: templates of requests are not run; serve with --chat-template, or "
            "--trust-request-chat-template where every client is trusted",
            "chat_template",
        )
    if body.messages is not None and len(body.messages) > MAX_MESSAGES:
        raise RequestError(
            f"messages has {len(body.messages)} entries; at most {MAX_MESSAGES} are served: leave out or join old ones",
            "messages",
        )
    documents = body.documents if isinstance(body, ChatBody) else None
    return await context.pools.run(
        "render",
        context.chat_template.render,
        body.messages or [],
        tools=_shown_tools(context, body),
        documents=documents,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        variables=template_variables(context, body),
    )


def template_variables(context: ServerContext, body: ChatBody | TokenizeBody) -> dict[str, Any]:
    """The variables of the chat template: the request's, before those of the server's flag."""
    variables = {**context.template_variables, **(body.chat_template_kwargs or {})}
    if isinstance(body, ChatBody) and body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
        variables.setdefault("enable_thinking", body.reasoning_effort != "none")  # of templates with a switch
    return variables


def _shown_tools(context: ServerContext, body: ChatBody | TokenizeBody) -> list[dict[str, Any]] | None:
    """The tools that the prompt lists."""
    hidden = context.config.server.exclude_tools_when_none and isinstance(body, ChatBody) and body.tool_choice == "none"
    return None if hidden else body.tools


async def end_tokens(context: ServerContext, body: CompletionBody | ChatBody) -> tuple[int, ...]:
    """The tokens that end an answer: the model's own, or those of the request's chat template."""
    template = body.chat_template if isinstance(body, ChatBody) else None
    if template is None:
        ends = infilling_ends(context, body) if isinstance(body, CompletionBody) and body.suffix else ()
        return tuple(dict.fromkeys((*context.eos_token_ids, *ends)))
    return context.ends(
        await context.pools.run("render", turn_ends, context.chat_template, context.tokenizer, template)
    )


def truncate(context: ServerContext, body: CompletionBody | ChatBody, token_ids: list[T]) -> list[T]:
    """The prompt with as many tokens as `truncate_prompt_tokens` leaves; -1: as many as fit the context.

    Raises:
        RequestError: `truncate_prompt_tokens` is more than the model's context.
    """
    keep = body.truncate_prompt_tokens
    if keep is None:
        return token_ids
    if keep == -1:
        asked = body.max_tokens_asked
        keep = max(1, context.max_model_len - (1 if asked is None else asked))
    if not 0 < keep <= context.max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens is {keep}; it must be -1, or 1 to the model's context of {context.max_model_len}",
            "truncate_prompt_tokens",
        )
    return token_ids[:keep] if body.truncation_side == "right" else token_ids[-keep:]


async def echoed_texts(
    context: ServerContext, body: CompletionBody | ChatBody, whole: Sequence[list[int]], kept: Sequence[list[int]]
) -> list[str]:
    """The text that precedes each answer with `echo`: the prompt, or the chat's last message. Empty texts without it.

    A prompt is echoed as it was sent; one of token ids, or one that was truncated from `whole` to `kept`, is decoded.
    """
    if not body.echo:
        return [""] * len(kept)
    if isinstance(body, ChatBody):
        content = body.messages[-1].get("content") if body.messages else None
        return [content if isinstance(content, str) else ""]
    sent = [
        given if isinstance(given, str) and len(left) == len(all_) else None
        for given, left, all_ in zip(body.prompts, kept, whole, strict=True)
    ]
    continued = body.max_tokens > 0

    def decode() -> list[str]:
        return [
            decoded_prompt(context.tokenizer, token_ids, continued=continued) if text is None else text
            for text, token_ids in zip(sent, kept, strict=True)
        ]

    return decode() if sum(map(len, kept)) <= FEW_TOKENS else await context.pools.run("decode", decode)
