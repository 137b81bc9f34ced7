"""Pooling as the server asks for it, from prompts to embeddings or scores: the requests of one HTTP request, and what the client makes of the core's vectors.

The core computes vectors; here they are cut, divided by their length, or become scores, as the model's `PoolingModel` and
the request say. Independent of HTTP and text.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.errors import OctavoError, RequestError
from octavo_engine.messages import PoolingModel, PoolingRequest


class PoolingError(OctavoError):
    """The engine ended a request with an error; the message is the engine's."""


@dataclass(frozen=True, slots=True)
class PoolingOptions:
    """The part that a request may change of the model's pooling."""

    normalize: bool | None = None  # None: as the model does
    activate: bool | None = None  # of scores; None: yes
    dimensions: int | None = None  # elements that an embedding is cut to


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """The result of one prompt: an embedding, or a score for each label."""

    values: array[float]  # float32
    num_prompt_tokens: int


async def pool(
    client: EngineLink, model: PoolingModel, requests: Sequence[PoolingRequest], options: PoolingOptions
) -> list[PoolingOutput]:
    """The outputs of `requests`, in their order. They are admitted together; those unfinished end with the caller.

    Raises:
        RequestError: a request can't be served, or the queue is full.
        PoolingError: the engine could not go on with one of them.
        EngineDeadError: the engine is gone.
    """
    check(model, options)
    found: dict[str, array[float]] = {}
    stream = client.submit(requests)
    try:
        while outputs := await stream.get():
            for output in outputs:
                if output.finish_reason == "error" or output.pooled is None:
                    reason = output.error or "the engine could not run this request"
                    raise RequestError(reason) if output.refused else PoolingError(reason)
                found[output.request_id] = finished(output.pooled, model, options)
    finally:
        stream.close()
    return [PoolingOutput(found[each.request_id], len(each.prompt_token_ids)) for each in requests]


def check(model: PoolingModel, options: PoolingOptions) -> None:
    """Raise RequestError for options that the model does not have."""
    dimensions = options.dimensions
    if dimensions is None:
        return
    if model.task != "embed" or not (model.any_dimension or model.dimensions):
        raise RequestError(
            "dimensions: this model's embeddings are not made to be cut; leave it out, or serve a Matryoshka model with "
            """--hf-overrides '{"is_matryoshka": true}'""",
            "dimensions",
        )
    if model.dimensions and dimensions not in model.dimensions:
        known = ", ".join(map(str, model.dimensions))
        raise RequestError(
            f"dimensions is {dimensions}; this model's embeddings are cut to one of {known}", "dimensions"
        )
    if not 1 <= dimensions <= model.size:
        raise RequestError(f"dimensions is {dimensions}; it must lie between 1 and {model.size}", "dimensions")


def finished(vector: bytes, model: PoolingModel, options: PoolingOptions) -> array[float]:
    """The embedding or the scores that `vector`, float32 little-endian, amounts to."""
    values = array("f")
    values.frombytes(vector)
    if sys.byteorder == "big":
        values.byteswap()
    if model.task == "embed":
        if options.dimensions is not None:
            values = values[: options.dimensions]
        return normalized(values) if (model.normalize if options.normalize is None else options.normalize) else values
    return activated(values, model.activation, apply=options.activate is not False)


def normalized(values: array[float]) -> array[float]:
    """The vector of length 1 in the same direction; zeros stay."""
    length = math.sqrt(math.fsum(x * x for x in values))
    return array("f", [x / length for x in values]) if length else values


def activated(logits: array[float], activation: str, *, apply: bool) -> array[float]:
    """Scores of logits, by the activation that `octavo_models.pooling` names; with `apply` False the logits themselves."""
    if activation == "sigmoid_of_difference":
        logits = array("f", [logits[1] - logits[0]])
        activation = "sigmoid"
    if not apply or activation == "none":
        return logits
    if activation == "sigmoid":
        return array("f", [_sigmoid(x) for x in logits])
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    total = math.fsum(weights)
    return array("f", [x / total for x in weights])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
