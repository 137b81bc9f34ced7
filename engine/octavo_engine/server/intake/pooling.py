"""Pooling requests out of a body: its inputs tokenized, cut where that was asked for, and of a length that fits."""

from __future__ import annotations

from collections.abc import Sequence

from octavo_engine.core.rejections import GENERATES
from octavo_engine.core_client.pooling import PoolingOptions, PoolingOutput, pool
from octavo_engine.errors import RequestError
from octavo_engine.messages import PoolingModel, PoolingRequest
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.limits import FEW_TEXTS, SHORT_TEXT
from octavo_engine.server.intake.pooling_bodies import InputBody, PoolingBody
from octavo_engine.server.pools import Kind

Prompt = tuple[list[int], int]  # token ids, and where a second segment begins


def pooling_model(context: ServerContext) -> PoolingModel:
    """The served model. Raises RequestError where it generates."""
    if context.ready.pooling is None:
        raise RequestError(GENERATES)
    return context.ready.pooling


async def encode_inputs(context: ServerContext, body: InputBody) -> list[Prompt]:
    """The token ids of each input. Raises RequestError for one that is wrong or too long."""
    given = body.inputs
    _check_number(context, len(given), "input")
    keep = _kept(context, body)
    if not isinstance(given[0], str):
        for token_ids in given:
            context.check_token_ids(token_ids, "input")
        found = [token_ids if keep is None else token_ids[:keep] for token_ids in given]
    elif keep is None:
        for text in given:
            context.check_length(text, "input")
        found = await context.encode(given, "input", add_special_tokens=body.add_special_tokens)
    else:
        tokenizer, kind = context.tokenizer, _kind(context, given, "input")
        found = await context.pools.run(kind, lambda: [tokenizer.encode_within(text, keep) for text in given])
    return _fitting(context, [(token_ids, 0) for token_ids in found], "input")


async def encode_pairs(
    context: ServerContext, body: PoolingBody, pairs: Sequence[tuple[str, str]], field: str
) -> list[Prompt]:
    """The token ids of each pair, as the model's tokenizer joins two texts. Raises as `encode_inputs`."""
    _check_number(context, len(pairs), field)
    keep, tokenizer = _kept(context, body), context.tokenizer
    if keep is None:
        for first, second in pairs:
            context.check_length(first + second, field)
    kind = _kind(context, [text for pair in pairs for text in pair], field)
    found = await context.pools.run(kind, lambda: [tokenizer.encode_pair(*pair, keep) for pair in pairs])
    return _fitting(context, found, field)


async def pooled(
    context: ServerContext, body: PoolingBody, prompts: Sequence[Prompt], options: PoolingOptions, arrived: float
) -> list[PoolingOutput]:
    """The result of each prompt. Raises as `core_client.pooling.pool`."""
    number = next(context.sequence)
    requests = [
        PoolingRequest(
            request_id=f"{number}.{i}",
            prompt_token_ids=token_ids,
            arrival_time=arrived,
            priority=body.priority,
            second_segment=second_segment,
        )
        for i, (token_ids, second_segment) in enumerate(prompts)
    ]
    return await pool(context.client, pooling_model(context), requests, options)


def _kept(context: ServerContext, body: PoolingBody) -> int | None:
    """Tokens that a prompt is cut to; None: it is not."""
    keep, most = body.truncate_prompt_tokens, context.max_model_len
    if keep is None:
        return None
    if keep == -1:
        return most
    if not 0 < keep <= most:
        field = "truncate_prompt_tokens"
        raise RequestError(f"{field} is {keep}; it must be -1, or 1 to the model's context of {most}", field)
    return keep


def _kind(context: ServerContext, texts: Sequence[str], field: str) -> Kind:
    length = sum(map(len, texts))
    if length > context.limits.text_characters:
        raise RequestError(
            f"{field} has {length} characters; at most {context.limits.text_characters} are read of one request: send "
            "several requests",
            field,
        )
    return "encode" if length <= SHORT_TEXT * FEW_TEXTS else "encode_long"


def _check_number(context: ServerContext, count: int, field: str) -> None:
    if not count:
        raise RequestError(f"{field} is empty: send at least one text", field)
    if count > context.limits.sequences:
        raise RequestError(
            f"{field} has {count} texts; at most {context.limits.sequences} are served of one request: send them in several",
            field,
        )


def _fitting(context: ServerContext, prompts: list[Prompt], field: str) -> list[Prompt]:
    for token_ids, _ in prompts:
        if not token_ids:
            raise RequestError(f"{field} has a text without tokens: send one with at least one", field)
        if len(token_ids) > context.max_model_len:
            raise RequestError(
                f"This model's maximum context length is {context.max_model_len} tokens, and a text of {field} has "
                f"{len(token_ids)}: shorten it, or send truncate_prompt_tokens: -1",
                field,
                code="context_length_exceeded",
            )
    total = sum(len(token_ids) for token_ids, _ in prompts)
    if total > context.limits.request_tokens:
        raise RequestError(
            f"{field} has {total} tokens; at most {context.limits.request_tokens} are served of one request: send several",
            field,
        )
    return prompts
