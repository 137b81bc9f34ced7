"""From a request's fields to complete SamplingParams: the request's, else the model's, else the API's defaults.

Everything that could ask for too much is bounded here, before anything is allocated for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.limits import (
    MAX_BAD_WORD_CHARACTERS,
    MAX_BAD_WORDS,
    MAX_BANS,
    MAX_LOGPROBS,
    MAX_PROMPT_LOGPROBS,
    MAX_STOP_TOKEN_IDS,
)
from octavo_engine.server.intake.protocol import SamplingBody

T = TypeVar("T")

SEED_MASK = 2**64 - 1
MAX_TOKEN_ID_DIGITS = 20
BIAS_LIMIT = 100.0  # OpenAI's


def sampling_params(
    context: ServerContext,
    body: SamplingBody,
    *,
    logprobs: int | None,
    prompt_logprobs: int | None,
    bad_words: tuple[tuple[int, ...], ...],
) -> SamplingParams:
    """How `body` wants tokens drawn; `bad_words` are its own as tokens, and `max_tokens` is 0 until `with_room` knows the prompt.

    Raises:
        RequestError: a field is out of bounds; names it.
    """
    defaults = context.defaults
    _check_bounds(context, body)
    top_k = _first(body.top_k, defaults.top_k, 0)
    seed = context.seeds.getrandbits(64) if body.seed is None else body.seed & SEED_MASK
    return SamplingParams(
        max_tokens=0,
        temperature=_first(body.temperature, defaults.temperature, 1.0),
        top_p=_first(body.top_p, defaults.top_p, 1.0),
        top_k=min(max(top_k, 0), context.vocab_size),
        min_p=_first(body.min_p, defaults.min_p, 0.0),
        seed=seed,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        eos_token_ids=context.eos_token_ids,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logprobs=_num_logprobs(context, "logprobs", logprobs),
        prompt_logprobs=_num_logprobs(context, "prompt_logprobs", prompt_logprobs),
        logit_bias=_logit_bias(context, body.logit_bias),
        allowed_token_ids=_allowed(context, body.allowed_token_ids),
        bad_words=bad_words,
    )


async def bad_words(context: ServerContext, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word's tokens at the start of a text and after a space, where that makes a token of its own.

    A word with a token that the model lacks is never drawn.

    Raises:
        RequestError: there are too many, they are too long, or one is empty.
    """
    if not words:
        return ()
    length = sum(map(len, words))
    if len(words) > MAX_BAD_WORDS or length > MAX_BAD_WORD_CHARACTERS:
        raise RequestError(
            f"bad_words has {len(words)} entries of {length} characters; at most {MAX_BAD_WORDS} of "
            f"{MAX_BAD_WORD_CHARACTERS} are served",
            "bad_words",
        )
    texts = [text for word in words for text in (word.lstrip(), " " + word.lstrip())]
    encoded = await context.encode(texts, "bad_words", add_special_tokens=False)
    found: dict[tuple[int, ...], None] = {}
    for i, (plain, spaced) in enumerate(zip(encoded[::2], encoded[1::2], strict=True)):
        if not plain:
            raise RequestError(f"bad_words[{i}] is empty", f"bad_words[{i}]")
        found[tuple(plain)] = None
        if len(spaced) == len(plain) and spaced[0] != plain[0]:
            found[tuple(spaced)] = None
    return tuple(word for word in found if max(word) < context.vocab_size)


def with_room(
    context: ServerContext,
    params: SamplingParams,
    prompt: Sequence[int],
    asked: int | None,
    prompt_param: str,
    sequences: int = 1,
) -> SamplingParams:
    """`params` with its `max_tokens`: `asked`, or what is left of the context after the prompt's token ids.

    Of log-probabilities, all `sequences` of the request together have a bound, which shortens what is not `asked` for.

    Raises:
        RequestError: prompt and `asked` do not fit the model's context, or the model has no embedding for a token.
    """
    limit = context.max_model_len
    num_prompt_tokens = len(prompt)
    if not num_prompt_tokens:
        raise RequestError(f"{prompt_param} is empty: it needs at least one token", prompt_param)
    if num_prompt_tokens + min(1, 1 if asked is None else asked) > limit:
        raise RequestError(
            f"This model's maximum context length is {limit} tokens, and the prompt has {num_prompt_tokens}: "
            "shorten it, or set truncate_prompt_tokens",
            prompt_param,
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
    context.check_token_ids(prompt, prompt_param)
    room = limit - num_prompt_tokens
    if params.logprobs is not None:
        each = (params.logprobs + 1) * sequences
        if asked is not None and asked * each > MAX_LOGPROBS:
            raise RequestError(
                f"logprobs {params.logprobs} of up to {asked} tokens in each of {sequences} sequences are "
                f"{asked * each} numbers; at most {MAX_LOGPROBS} are answered: lower max_tokens, n or logprobs",
                "max_tokens",
            )
        room = min(room, max(1, MAX_LOGPROBS // each))
    max_tokens = min(room, context.defaults.max_tokens or room) if asked is None else asked
    if params.min_tokens > max_tokens:
        raise RequestError(f"min_tokens {params.min_tokens} is more than max_tokens {max_tokens}", "min_tokens")
    return msgspec.structs.replace(params, max_tokens=max_tokens)


def of_choice(params: SamplingParams, index: int, *, prompt_logprobs: bool) -> SamplingParams:
    """The parameters of one of `n` choices: its own seed, derived from the request's; the prompt's only where asked."""
    if not index:
        return params
    asked = params.prompt_logprobs if prompt_logprobs else None
    return msgspec.structs.replace(params, seed=(params.seed + index) & SEED_MASK, prompt_logprobs=asked)


def truncated(context: ServerContext, body: SamplingBody, token_ids: list[int], asked: int | None) -> list[int]:
    """The prompt with as many tokens as `truncate_prompt_tokens` leaves; -1: as many as fit the context.

    Raises:
        RequestError: it asks for more than the model's context.
    """
    keep = body.truncate_prompt_tokens
    if keep is None:
        return token_ids
    if keep == -1:
        keep = max(1, context.max_model_len - (1 if asked is None else asked))
    if not 0 < keep <= context.max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens is {keep}; it must be -1, or 1 to the model's context of {context.max_model_len}",
            "truncate_prompt_tokens",
        )
    return token_ids[:keep] if body.truncation_side == "right" else token_ids[-keep:]


def check_num_sequences(context: ServerContext, num_prompts: int, n: int) -> None:
    """Raises RequestError for more sequences than are served at once, before any is made."""
    if n > context.config.server.max_n:
        raise RequestError(f"n is {n}; at most {context.config.server.max_n} choices are served", "n")
    bound = context.limits.sequences
    if num_prompts * n > bound:
        param = "prompt" if num_prompts > 1 else "n"
        raise RequestError(
            f"{num_prompts} prompts with n {n} are {num_prompts * n} sequences; at most {bound} are served of one request: "
            "send them in several requests",
            param,
        )


def check_size(context: ServerContext, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams) -> None:
    """Raises RequestError for what is only too much for all of a request's sequences together."""
    tokens, most = sum(map(len, prompts)) * n, context.limits.request_tokens
    if tokens > most:
        raise RequestError(
            f"the prompts have {tokens} tokens, those of each of n {n} choices counted; at most {most} are served at "
            "once: send fewer or shorter prompts, or a smaller n",
            "n" if n > 1 else "prompt",
        )
    if params.prompt_logprobs is not None and tokens * (params.prompt_logprobs + 1) > MAX_PROMPT_LOGPROBS:
        raise RequestError(
            f"prompt_logprobs {params.prompt_logprobs} of {tokens} tokens are {tokens * (params.prompt_logprobs + 1)} "
            f"numbers; at most {MAX_PROMPT_LOGPROBS} are answered: ask for fewer, or send shorter prompts",
            "prompt_logprobs",
        )
    bans = {
        "allowed_token_ids": len(params.allowed_token_ids),
        "bad_words": sum(map(len, params.bad_words)),
        "logit_bias": len(params.logit_bias),
    }
    sequences = len(prompts) * n
    if sum(bans.values()) * sequences > MAX_BANS:
        name = max(bans, key=lambda name: bans[name])
        raise RequestError(
            f"{name} has {bans[name]} token ids, which each of {sequences} sequences gets; at most {MAX_BANS} in all "
            "are possible: send fewer, or fewer sequences at once",
            name,
        )


def _num_logprobs(context: ServerContext, name: str, asked: int | None) -> int | None:
    """How many tokens' log-probabilities are asked for, of `--max-logprobs` at most; -1 is the whole vocabulary."""
    if asked is None:
        return None
    most = context.config.server.max_logprobs
    most = context.vocab_size if most == -1 else most
    wanted = context.vocab_size if asked == -1 else asked
    if wanted > most:
        whole = f", the whole vocabulary of {wanted} tokens" if asked == -1 else ""
        raise RequestError(f"{name} is {asked}{whole}; at most {most} are served (--max-logprobs)", name)
    return wanted


def _check_bounds(context: ServerContext, body: SamplingBody) -> None:
    if len(body.stop_token_ids or ()) > MAX_STOP_TOKEN_IDS:
        raise RequestError(f"stop_token_ids has more than {MAX_STOP_TOKEN_IDS} entries", "stop_token_ids")
    context.check_token_ids(body.stop_token_ids or (), "stop_token_ids")


def _logit_bias(context: ServerContext, bias: dict[str, float] | None) -> dict[int, float]:
    result: dict[int, float] = {}
    for key, value in (bias or {}).items():
        token_id = int(key) if key.isascii() and key.isdigit() and len(key) <= MAX_TOKEN_ID_DIGITS else -1
        if not 0 <= token_id < context.vocab_size:
            shown = key if len(key) <= MAX_TOKEN_ID_DIGITS else key[:MAX_TOKEN_ID_DIGITS] + "…"
            raise RequestError(
                f"logit_bias has the key {shown!r}, which is no token id below {context.vocab_size}",
                f"logit_bias.{shown}",
            )
        if math.isnan(value):
            raise RequestError(f"logit_bias of {key} is not a number", f"logit_bias.{key}")
        result[token_id] = max(-BIAS_LIMIT, min(BIAS_LIMIT, value))
    return result


def _allowed(context: ServerContext, token_ids: Sequence[int] | None) -> tuple[int, ...]:
    if token_ids is None:
        return ()
    if not token_ids:
        raise RequestError("allowed_token_ids is empty: nothing could be drawn; leave it out", "allowed_token_ids")
    context.check_token_ids(token_ids, "allowed_token_ids")
    return tuple(dict.fromkeys(token_ids))


def _first(*values: T | None) -> T:
    """The first that is not None; the last one never is."""
    for value in values:
        if value is not None:
            return value
    raise AssertionError("a default is missing")
