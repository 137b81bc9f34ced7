"""Completions with a `suffix`: the prompt in the model's format for filling in a text between two others."""

from __future__ import annotations

from collections.abc import Sequence

from octavo_engine.errors import RequestError
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.protocol import CompletionBody
from octavo_engine.text.fill_in_middle import MARK, FillInMiddle, filled, find_format


def format_for(context: ServerContext, body: CompletionBody) -> FillInMiddle:
    """The model's format. Raises RequestError if it has none, or the request would cut it."""
    chosen = find_format(context.tokenizer.token_id)
    if chosen is None:
        raise RequestError(
            "suffix: this model's vocabulary has none of the known markers for text after the completion: leave it out, or "
            "serve a model of code that fills in, such as Qwen2.5-Coder",
            "suffix",
        )
    if body.truncate_prompt_tokens is not None:
        raise RequestError(
            "truncate_prompt_tokens would cut the markers around prompt and suffix: shorten the texts, or leave suffix out",
            "truncate_prompt_tokens",
        )
    return chosen


async def infilled_prompts(context: ServerContext, body: CompletionBody) -> list[list[int]]:
    """The token ids of each prompt with what follows its answer.

    Raises:
        RequestError: the model has no such format, or a text is too long; names the field.
    """
    assert body.suffix
    chosen = format_for(context, body)
    texts = [given for given in body.prompts if isinstance(given, str)]
    context.check_length(max(texts, key=len, default="") + body.suffix, "suffix")
    mark = MARK if chosen.bare_suffix else ""
    asked = [*texts, mark + body.suffix, mark]
    *prefixes, suffix, marked = await context.encode(asked, "suffix", add_special_tokens=False)
    (begin,) = await context.encode([""], "suffix", add_special_tokens=body.add_special_tokens)
    left = iter(prefixes)
    found = [next(left) if isinstance(given, str) else given for given in body.prompts]
    added = len(begin) + len(suffix) - len(marked) + len(chosen.markers)
    check_filled(context, [len(prefix) + added for prefix in found], body.n or 1)

    def token_id(piece: str) -> int:
        index = context.tokenizer.token_id(piece)
        assert index is not None, "find_format has looked"
        return index

    return [filled(chosen, begin, prefix, suffix[len(marked) :], token_id) for prefix in found]


def check_filled(context: ServerContext, lengths: Sequence[int], n: int) -> None:
    """Raise RequestError if a prompt of `lengths` tokens is too long for the model, or all are for a request, `n` times."""
    longest, limit = max(lengths, default=0), context.max_model_len
    if longest > limit:
        raise RequestError(
            f"This model's maximum context length is {limit} tokens, and a prompt with its suffix has {longest}: shorten them",
            "suffix",
            code="context_length_exceeded",
        )
    tokens, most = sum(lengths) * n, context.limits.request_tokens
    if tokens > most:
        raise RequestError(
            f"the prompts have {tokens} tokens, the suffix of each and those of each of n {n} choices counted; at most {most} "
            "are served at once: send fewer or shorter prompts, a shorter suffix, or a smaller n",
            "suffix",
        )


def infilling_ends(context: ServerContext, body: CompletionBody) -> tuple[int, ...]:
    """The tokens that end what is filled in, besides the model's own."""
    ends = (context.tokenizer.token_id(end) for end in format_for(context, body).ends)
    return tuple(end for end in ends if end is not None and end < context.vocab_size)
