"""POST /generative_scoring: how likely a label's token is to follow a query and each of several items."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

from aiohttp import web
from pydantic import Field

from octavo_engine.errors import RequestError
from octavo_engine.messages import TokenLogprob
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.pooling_responses import Score, Scores
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.intake.admission import read_body, request_id
from octavo_engine.server.intake.protocol import NULL_IS_ABSENT, Flag, RequestBody, Texts, TokenIds
from octavo_engine.server.routes.label_logprobs import draw_labels


class ScoringBody(RequestBody):
    """POST /generative_scoring."""

    generates: ClassVar[bool] = True

    query: str | TokenIds
    items: Texts | Annotated[list[TokenIds], Field(fail_fast=True)]
    label_token_ids: TokenIds
    apply_softmax: Flag = True
    item_first: Flag = False
    add_special_tokens: Flag = True
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), NULL_IS_ABSENT] = 0


async def generative_scoring(request: web.Request) -> web.Response:
    """The probability of the first label for each item: among the labels, or among all tokens without `apply_softmax`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, ScoringBody)
    model = context.check_model(body.model)
    for name in ("query", "items", "label_token_ids"):
        if not getattr(body, name):
            raise RequestError(f"{name} is empty: it needs at least one entry", name)
    generation, drawn = await draw_labels(
        request,
        await _prompts(context, body),
        body.label_token_ids,
        arrived,
        model=model,
        salt=body.cache_salt,
        priority=body.priority,
    )
    data = [
        Score(index, _score(entry, body.label_token_ids, among_labels=body.apply_softmax))
        for index, entry in sorted(drawn.items())
    ]
    usage = generation.usage()
    usage.prompt_tokens_details = None
    return json_response(Scores(f"generative-scoring-{request_id(request)}", generation.created, model, data, usage))


async def _prompts(context: ServerContext, body: ScoringBody) -> list[list[int]]:
    """The tokens of the query and each item, as a text that begins with the first of both."""
    first, query_first = body.add_special_tokens, not body.item_first
    (query,) = await _encoded(context, "query", [body.query], special=first and query_first)
    items = await _encoded(context, "items", body.items, special=first and body.item_first)
    return [[*query, *item] if query_first else [*item, *query] for item in items]


async def _encoded(
    context: ServerContext, name: str, given: Sequence[str | list[int]], *, special: bool
) -> list[list[int]]:
    texts = [text for text in given if isinstance(text, str)]
    if texts:
        return await context.encode(texts, name, add_special_tokens=special)
    token_ids = [ids for ids in given if isinstance(ids, list)]
    for ids in token_ids:
        context.check_token_ids(ids, name)
    return token_ids


def _score(entry: TokenLogprob, labels: Iterable[int], *, among_labels: bool) -> float:
    known = dict(entry.top)
    likelihoods = [math.exp(known[label]) for label in dict.fromkeys(labels)]
    total = sum(likelihoods)
    if not among_labels:
        return likelihoods[0]
    return likelihoods[0] / total if total else 0.0
