"""Prepares complete prompts with complete sampling parameters from a body: the one path of every route that generates.

The order is that of cost: numbers are checked before texts are tokenized, and sizes before anything is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo_engine.core.rejections import POOLS
from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams, ThinkingBudget
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.answer_constraints import request_grammar
from octavo_engine.server.intake.beams import check_beams
from octavo_engine.server.intake.limits import MAX_BANS, MAX_LOGPROBS, MAX_PROMPT_LOGPROBS
from octavo_engine.server.intake.prompts import echoed_texts, encode_prompts, end_tokens, truncate
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
from octavo_engine.server.intake.sampling import SEED_MASK, num_logprobs, read_bad_words, shared_values
from octavo_engine.server.intake.thinking import thinking_budgets
from octavo_engine.server.intake.tools import ToolUse


@dataclass(slots=True)
class Prompt:
    """One prompt of a request. `text` is empty unless it is echoed."""

    token_ids: list[int]
    sampling: tuple[SamplingParams, ...]  # of each of its choices
    text: str = ""


async def prepare(context: ServerContext, body: CompletionBody | ChatBody, use: ToolUse) -> list[Prompt]:
    """The request's prompts, each with the sampling parameters of its `n` choices. `use`: the tools of a chat.

    Raises:
        RequestError: a field is wrong, is not served, or asks for more than the server's limits allow; names it.
    """
    if context.ready.pooling is not None:
        raise RequestError(POOLS)
    n = body.n or 1
    check_num_sequences(context, body.num_prompts, n)
    _check_served(context, body)
    shared = shared_values(context, body)
    prompt_logprobs = num_logprobs(context, "prompt_logprobs", body.prompt_logprobs_asked)
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("max_tokens is 0, which only makes sense with echo: ask for 1 or more", "max_tokens")
    shared["bad_words"] = await read_bad_words(context, body.bad_words or ())
    whole = await encode_prompts(context, body, must_fit=body.truncate_prompt_tokens is None)
    shared["eos_token_ids"] = await end_tokens(context, body)
    grammar = request_grammar(context, body, use, whole[0])
    shared["grammar"] = await _sent(context, grammar, ends=bool(shared["eos_token_ids"] or shared["stop_token_ids"]))
    if shared["grammar"]:
        if body.use_beam_search:
            raise RequestError(
                "use_beam_search: beams follow no grammar: leave out strict tools and tool_choice, or use_beam_search",
                "use_beam_search",
            )
        shared["ignore_eos"] = False  # its end is the grammar's
    kept = [truncate(context, body, token_ids) for token_ids in whole]
    max_tokens = [_max_tokens(context, body, token_ids, shared["logprobs"], len(kept) * n) for token_ids in kept]
    _check_size(context, kept, n, shared, prompt_logprobs)
    texts = await echoed_texts(context, body, whole, kept)
    seed = context.seeds.getrandbits(64) if body.seed is None else body.seed
    budgets = await thinking_budgets(context, body, use, kept)

    def sampling(index: int, most: int, thinking: ThinkingBudget | None) -> SamplingParams:
        # Choices share the log-probabilities of the prompt, except in a stream, where each brings its own.
        scores = prompt_logprobs if body.stream or not index else None
        return SamplingParams(
            max_tokens=most,
            seed=(seed + index) & SEED_MASK,
            prompt_logprobs=scores,
            thinking=thinking,
            **shared,
        )

    return [
        Prompt(token_ids, tuple(sampling(index, most, thinking) for index in range(n)), text)
        for token_ids, most, text, thinking in zip(kept, max_tokens, texts, budgets, strict=True)
    ]


async def _sent(context: ServerContext, grammar: str, *, ends: bool) -> str:
    """The grammar itself, once the engine has the vocabulary for it; empty if there is none.

    Raises:
        RequestError: nothing would end an answer that matches it.
    """
    if not grammar:
        return ""
    if not ends:
        raise RequestError(
            "this model has no token that ends a text, so no answer could match a schema and end: name one in stop_token_ids",
            "stop_token_ids",
        )
    await context.send_vocabulary()
    return grammar


def check_num_sequences(context: ServerContext, num_prompts: int, n: int) -> None:
    """Raise RequestError if the request has no prompts, or more sequences than are served at once."""
    if not num_prompts:
        raise RequestError("prompt is empty: send at least one", "prompt")
    if n > context.config.server.max_n:
        raise RequestError(f"n is {n}; at most {context.config.server.max_n} choices are served", "n")
    bound = context.limits.sequences
    if num_prompts * n > bound:
        raise RequestError(
            f"{num_prompts} prompts with n {n} are {num_prompts * n} sequences; at most {bound} are served of one request: "
            "send them in several requests",
            "prompt" if num_prompts > 1 else "n",
        )


def _check_served(context: ServerContext, body: CompletionBody | ChatBody) -> None:
    """Raise RequestError for combinations of fields that are not served, or contradict each other."""
    if body.use_beam_search:
        check_beams(context, body)
    if isinstance(body, CompletionBody):
        if body.best_of not in {None, body.n or 1}:
            raise RequestError("best_of: choosing the best of several is not served yet; leave it out", "best_of")
        return
    if body.top_logprobs and not body.logprobs:  # some clients always send their number: 0 asks for none
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")


def _max_tokens(
    context: ServerContext,
    body: CompletionBody | ChatBody,
    prompt: Sequence[int],
    logprobs: int | None,
    num_sequences: int,
) -> int:
    """The most tokens to generate for a prompt: as asked for, or as many as the context has left.

    The log-probabilities of all sequences together are limited, which shortens an answer of no stated length.

    Raises:
        RequestError: the prompt and `max_tokens` do not fit the model's context, or there is no such token.
    """
    limit, asked, field = context.max_model_len, body.max_tokens_asked, body.prompt_field
    num_prompt_tokens = len(prompt)
    if not num_prompt_tokens:
        raise RequestError(f"{field} is empty: it needs at least one token", field)
    if num_prompt_tokens + min(1, 1 if asked is None else asked) > limit:
        raise RequestError(
            f"This model's maximum context length is {limit} tokens, and the prompt has {num_prompt_tokens}: "
            "shorten it, or set truncate_prompt_tokens",
            field,
            code="context_length_exceeded",
        )
    if asked is not None and num_prompt_tokens + asked > limit:
        raise RequestError(
            f"This model's maximum context length is {limit} tokens. However, you requested "
            f"{num_prompt_tokens + asked} tokens ({num_prompt_tokens} in the prompt, {asked} in the completion): "
            "shorten the prompt or lower max_tokens",
            "max_tokens",
            code="context_length_exceeded",
        )
    context.check_token_ids(prompt, field)
    available = limit - num_prompt_tokens
    if logprobs is not None:
        each = (logprobs + 1) * num_sequences
        if asked is not None and asked * each > MAX_LOGPROBS:
            raise RequestError(
                f"logprobs {logprobs} of up to {asked} tokens in each of {num_sequences} sequences are "
                f"{asked * each} numbers; at most {MAX_LOGPROBS} are answered: lower max_tokens, n or logprobs",
                "max_tokens",
            )
        available = min(available, max(1, MAX_LOGPROBS // each))
    max_tokens = min(available, context.defaults.max_tokens or available) if asked is None else asked
    if body.min_tokens > max_tokens:
        raise RequestError(f"min_tokens {body.min_tokens} is more than max_tokens {max_tokens}", "min_tokens")
    return max_tokens


def check_num_tokens(context: ServerContext, prompts: Sequence[Sequence[int]], n: int) -> int:
    """The number of tokens of all prompts, times `n`. Raises RequestError for more than are served at once."""
    tokens, most = sum(map(len, prompts)) * n, context.limits.request_tokens
    if tokens > most:
        raise RequestError(
            f"the prompts have {tokens} tokens, those of each of n {n} choices counted; at most {most} are served at "
            "once: send fewer or shorter prompts, or a smaller n",
            "n" if n > 1 else "prompt",
        )
    return tokens


def _check_size(
    context: ServerContext,
    prompts: Sequence[Sequence[int]],
    n: int,
    shared: Mapping[str, Any],
    prompt_logprobs: int | None,
) -> None:
    """Raise RequestError if all of the request's sequences together are too much."""
    tokens = check_num_tokens(context, prompts, n)
    if prompt_logprobs is not None and tokens * (prompt_logprobs + 1) > MAX_PROMPT_LOGPROBS:
        raise RequestError(
            f"prompt_logprobs {prompt_logprobs} of {tokens} tokens are {tokens * (prompt_logprobs + 1)} "
            f"numbers; at most {MAX_PROMPT_LOGPROBS} are answered: ask for fewer, or send shorter prompts",
            "prompt_logprobs",
        )
    bans = {
        "allowed_token_ids": len(shared["allowed_token_ids"]),
        "bad_words": sum(map(len, shared["bad_words"])),
        "logit_bias": len(shared["logit_bias"]),
    }
    sequences = len(prompts) * n
    if sum(bans.values()) * sequences > MAX_BANS:
        name = max(bans, key=lambda name: bans[name])
        raise RequestError(
            f"{name} has {bans[name]} token ids, which each of {sequences} sequences gets; at most {MAX_BANS} in all "
            "are possible: send fewer, or fewer sequences at once",
            name,
        )
