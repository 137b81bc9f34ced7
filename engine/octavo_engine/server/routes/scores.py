"""POST /score and /rerank: how well texts match, by a cross-encoder's score or by the angle between two embeddings."""

from __future__ import annotations

import math
import time
from array import array

from aiohttp import web

from octavo_engine.core_client.pooling import PoolingOptions, PoolingOutput
from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.pooling_responses import Ranked, RankedDocument, Ranking, Score, Scores
from octavo_engine.server.answer.responses import Usage
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.intake.admission import answer_id, read_body
from octavo_engine.server.intake.pooling import encode_inputs, encode_pairs, pooled, pooling_model
from octavo_engine.server.intake.pooling_bodies import InputBody, RerankBody, ScoreBody
from octavo_engine.server.routes.embeddings import usage_of


async def score(request: web.Request) -> web.Response:
    """The score of each pair: of one text with each of the others, or of the i-th with the i-th."""
    arrived, context = time.monotonic(), request.app[CONTEXT]
    body = await read_body(request, ScoreBody)
    name = context.check_model(body.model)
    first = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    second = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    if len(first) not in {1, len(second)}:
        raise RequestError(
            f"text_1 has {len(first)} texts and text_2 {len(second)}: send one text, or as many as text_2 has", "text_1"
        )
    scores, usage = await _scores(context, body, first, second, "text_2", arrived)
    data = [Score(i, each) for i, each in enumerate(scores)]
    return json_response(Scores(answer_id(request, body, "score"), int(time.time()), name, data, usage))


async def rerank(request: web.Request) -> web.Response:
    """The documents that match the query best, the best first."""
    arrived, context = time.monotonic(), request.app[CONTEXT]
    body = await read_body(request, RerankBody)
    name, texts = context.check_model(body.model), body.texts
    scores, usage = await _scores(context, body, [body.query], texts, "documents", arrived)
    ranked = sorted(range(len(texts)), key=lambda i: -scores[i])[: body.top_n or len(texts)]
    results = [Ranked(i, RankedDocument(texts[i]), scores[i]) for i in ranked]
    return json_response(Ranking(answer_id(request, body, "rerank"), name, usage, results))


async def _scores(
    context: ServerContext,
    body: ScoreBody | RerankBody,
    first: list[str],
    second: list[str],
    field: str,
    arrived: float,
) -> tuple[list[float], Usage]:
    model = pooling_model(context)
    if model.task == "embed":
        return await _angles(context, body, first, second, arrived)
    if len(model.labels) != 1:
        raise RequestError(
            f"this model scores {len(model.labels)} labels, and not how well two texts match: use /classify"
        )
    pairs = list(zip(first * len(second) if len(first) == 1 else first, second, strict=True))
    prompts = await encode_pairs(context, body, pairs, field)
    outputs = await pooled(context, body, prompts, PoolingOptions(activate=body.use_activation), arrived)
    return [each.values[0] for each in outputs], usage_of(outputs)


async def _angles(
    context: ServerContext, body: ScoreBody | RerankBody, first: list[str], second: list[str], arrived: float
) -> tuple[list[float], Usage]:
    """The cosines between embeddings."""
    if not second:
        raise RequestError("there is no text to score: send at least one", "text_2")
    own = InputBody(input=[*first, *second], priority=body.priority, truncate_prompt_tokens=body.truncate_prompt_tokens)
    prompts = await encode_inputs(context, own)
    outputs = await pooled(context, body, prompts, PoolingOptions(normalize=True), arrived)
    ones, twos = outputs[: len(first)], outputs[len(first) :]
    if len(ones) == 1:
        ones = ones * len(twos)
    return [_cosine(one, two) for one, two in zip(ones, twos, strict=True)], usage_of(outputs)


def _cosine(one: PoolingOutput, two: PoolingOutput) -> float:
    a: array[float] = one.values
    return math.fsum(x * y for x, y in zip(a, two.values, strict=True))
