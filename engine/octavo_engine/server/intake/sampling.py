"""The sampling parameters that all choices of a request share: the body's fields, else the model's defaults, checked.

A field that `SamplingParams` and `SamplingBody` both have is passed on under its name; only those that need more than
their bounds have code here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.limits import (
    MAX_BAD_WORD_CHARACTERS,
    MAX_BAD_WORDS,
    MAX_LOGPROB_TOKEN_IDS,
    MAX_STOP_TOKEN_IDS,
)
from octavo_engine.server.intake.protocol import MAX_REPORTED_FIELDS, ChatBody, CompletionBody, SamplingBody

SEED_MASK = 2**64 - 1
MAX_TOKEN_ID_DIGITS = 20
BIAS_LIMIT = 100.0  # OpenAI's
OF_EACH_CHOICE = {"max_tokens", "seed", "prompt_logprobs"}
COMPLETED = {"repetition_detection"}  # has another form in a body
SHARED = tuple(
    name
    for name in SamplingParams.__struct_fields__
    if name in SamplingBody.model_fields.keys() - OF_EACH_CHOICE - COMPLETED
)


def shared_values(context: ServerContext, body: CompletionBody | ChatBody) -> dict[str, Any]:
    """The fields of `SamplingParams` that all choices share, by name, but those for which texts are tokenized.

    Raises:
        RequestError: a field is out of bounds; names it.
    """
    if len(body.stop_token_ids or ()) > MAX_STOP_TOKEN_IDS:
        raise RequestError(f"stop_token_ids has more than {MAX_STOP_TOKEN_IDS} entries", "stop_token_ids")
    context.check_token_ids(body.stop_token_ids or (), "stop_token_ids")
    values = dict(context.defaults.sampling)
    values |= {name: value for name in SHARED if (value := getattr(body, name)) is not None}
    return values | {
        "top_k": min(max(values.get("top_k", 0), 0), context.vocab_size),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "logprobs": num_logprobs(context, "logprobs", body.logprobs_asked),
        "logprobs_mode": context.config.api.logprobs_mode,
        "logprob_token_ids": _named(context, body),
        "logit_bias": _logit_bias(context, body.logit_bias),
        "repetition_detection": body.repetition_detection and body.repetition_detection.detection(),
        "allowed_token_ids": _allowed(context, body.allowed_token_ids),
    }


async def read_bad_words(context: ServerContext, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word's tokens at the start of a text, and after a space if that changes the first token.

    A word with a token that the model lacks is left out: it is never drawn.

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


def num_logprobs(context: ServerContext, name: str, asked: int | None) -> int | None:
    """The number of tokens whose log-probabilities to report; -1 is the whole vocabulary.

    Raises:
        RequestError: it is more than `--max-logprobs`.
    """
    if asked is None:
        return None
    most = context.config.server.max_logprobs
    most = context.vocab_size if most == -1 else most
    asked_for = context.vocab_size if asked == -1 else asked
    if asked_for > most:
        whole = f", the whole vocabulary of {asked_for} tokens" if asked == -1 else ""
        raise RequestError(f"{name} is {asked}{whole}; at most {most} are served (--max-logprobs)", name)
    return asked_for


def _logit_bias(context: ServerContext, bias: dict[str, float] | None) -> dict[int, float]:
    result: dict[int, float] = {}
    wrong: list[str] = []
    for key, value in (bias or {}).items():
        token_id = int(key) if key.isascii() and key.isdigit() and len(key) <= MAX_TOKEN_ID_DIGITS else -1
        if not 0 <= token_id < context.vocab_size:
            wrong.append(key if len(key) <= MAX_TOKEN_ID_DIGITS else key[:MAX_TOKEN_ID_DIGITS] + "…")
        elif math.isnan(value):
            raise RequestError(f"logit_bias of {key} is not a number", f"logit_bias.{key}")
        result[token_id] = max(-BIAS_LIMIT, min(BIAS_LIMIT, value))
    if wrong:
        shown = ", ".join(map(repr, wrong[:MAX_REPORTED_FIELDS]))
        more = f" and {len(wrong) - MAX_REPORTED_FIELDS} more" if len(wrong) > MAX_REPORTED_FIELDS else ""
        text = f"the key {shown}, which is" if len(wrong) == 1 else f"the keys {shown}{more}, which are"
        raise RequestError(f"logit_bias has {text} no token id below {context.vocab_size}", f"logit_bias.{wrong[0]}")
    return result


def _named(context: ServerContext, body: CompletionBody | ChatBody) -> tuple[int, ...]:
    """The tokens whose log-probabilities are reported in place of the likeliest ones."""
    token_ids = tuple(dict.fromkeys(body.logprob_token_ids or ()))
    if len(token_ids) > MAX_LOGPROB_TOKEN_IDS:
        raise RequestError(
            f"logprob_token_ids has {len(token_ids)} entries; at most {MAX_LOGPROB_TOKEN_IDS} are served",
            "logprob_token_ids",
        )
    context.check_token_ids(token_ids, "logprob_token_ids")
    return () if body.logprobs_asked is None else token_ids


def _allowed(context: ServerContext, token_ids: Sequence[int] | None) -> tuple[int, ...]:
    if token_ids is None:
        return ()
    if not token_ids:
        raise RequestError("allowed_token_ids is empty: nothing could be drawn; leave it out", "allowed_token_ids")
    context.check_token_ids(token_ids, "allowed_token_ids")
    return tuple(dict.fromkeys(token_ids))
