"""POST /v1/embeddings, /pooling and /classify: a vector or scores for each input."""

from __future__ import annotations

import base64
import sys
import time
from array import array
from collections.abc import Sequence

from aiohttp import web

from octavo_engine.core_client.pooling import PoolingOptions, PoolingOutput, check
from octavo_engine.errors import RequestError
from octavo_engine.messages import PoolingModel
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.pooling_responses import (
    Classification,
    Classified,
    Embedding,
    Embeddings,
    Pooled,
    PoolingAnswer,
)
from octavo_engine.server.answer.responses import Usage
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.intake.admission import answer_id, read_body
from octavo_engine.server.intake.pooling import encode_inputs, pooled, pooling_model
from octavo_engine.server.intake.pooling_bodies import ClassifyBody, EmbeddingBody, PoolBody


async def embeddings(request: web.Request) -> web.Response:
    """One embedding for each input."""
    arrived, context = time.monotonic(), request.app[CONTEXT]
    body = await read_body(request, EmbeddingBody)
    name, model = context.check_model(body.model), pooling_model(context)
    _require(model, "embed")
    options = PoolingOptions(normalize=body.normalize, dimensions=body.dimensions)
    check(model, options)
    outputs = await pooled(context, body, await encode_inputs(context, body), options, arrived)
    data = [Embedding(i, _written(each.values, body.encoding_format)) for i, each in enumerate(outputs)]
    return json_response(Embeddings(answer_id(request, body, "embd"), int(time.time()), name, data, usage_of(outputs)))


async def pooling(request: web.Request) -> web.Response:
    """The embedding or the scores of each input, whichever the model makes."""
    arrived, context = time.monotonic(), request.app[CONTEXT]
    body = await read_body(request, PoolBody)
    name, model = context.check_model(body.model), pooling_model(context)
    if body.task is not None:
        _require(model, body.task)
    options = PoolingOptions(body.normalize, body.use_activation, body.dimensions)
    check(model, options)
    outputs = await pooled(context, body, await encode_inputs(context, body), options, arrived)
    data = [Pooled(i, _written(each.values, body.encoding_format)) for i, each in enumerate(outputs)]
    return json_response(
        PoolingAnswer(answer_id(request, body, "pool"), int(time.time()), name, data, usage_of(outputs))
    )


async def classify(request: web.Request) -> web.Response:
    """The scores of each input's labels, and the most likely label."""
    arrived, context = time.monotonic(), request.app[CONTEXT]
    body = await read_body(request, ClassifyBody)
    name, model = context.check_model(body.model), pooling_model(context)
    _require(model, "classify")
    options = PoolingOptions(activate=body.use_activation)
    outputs = await pooled(context, body, await encode_inputs(context, body), options, arrived)
    data = [_classified(i, list(each.values), model) for i, each in enumerate(outputs)]
    id_ = answer_id(request, body, "classify")
    return json_response(Classification(id_, int(time.time()), name, data, usage_of(outputs)))


def usage_of(outputs: Sequence[PoolingOutput]) -> Usage:
    """The tokens of all prompts together."""
    total = sum(output.num_prompt_tokens for output in outputs)
    return Usage(total, total, 0)


def _require(model: PoolingModel, task: str) -> None:
    if model.task != task:
        made, there = ("embeddings", "/v1/embeddings") if model.task == "embed" else ("scores", "/classify or /score")
        raise RequestError(f"this model makes {made}: send the request to {there}")


def _classified(index: int, scores: list[float], model: PoolingModel) -> Classified:
    best = max(range(len(scores)), key=scores.__getitem__)
    return Classified(index, model.labels[best] if best < len(model.labels) else None, scores, len(scores))


def _written(values: array[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return values.tolist()
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()
