"""Admission of a request: its body, its ids, and whether it is accepted at all."""

from __future__ import annotations

import logging
import uuid
from typing import TypeVar

from aiohttp import web

from octavo_engine.errors import EngineDeadError
from octavo_engine.server.auth import KEY
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.intake.pooling_bodies import PoolingBody
from octavo_engine.server.intake.protocol import RequestBody, SamplingBody, fields_of, parse_body
from octavo_engine.server.intake.request_body import SHORT, Share, plain_body

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=RequestBody)
REQUEST_ID = "X-Request-Id"
MAX_REQUEST_ID = 256
SHARE: web.RequestKey[Share] = web.RequestKey("share", Share)  # of the memory for bodies
BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)  # of a request that has been read for another route
COUNTED: web.RequestKey[bool] = web.RequestKey("counted", bool)  # whether it counts as a request that is being answered


async def read_body(request: web.Request, kind: type[Body]) -> Body:
    """The request's body, read and parsed within the server's limits; refused first if it could not be admitted.

    Raises:
        RequestError: it is wrong (400), too large (413) or too slow (408).
        QueueFullError: the queue, or the memory for bodies, is full (429).
        EngineDeadError: the server is about to end, or its engine is gone (503).
    """
    context = request.app[CONTEXT]
    data = request.get(BODY)
    if data is None:
        data = await _received(request, kind)
    _check_room(context, kind)  # others may have filled the queue while this one waited
    body = parse_body(kind, data)
    if len(data) > SHORT:  # parsing took long enough: let others run
        await context.turns.take(begun=True)
    if context.config.server.enable_log_requests:
        name = _name_of(request, body)
        logger.info(
            *("%s: %s %s from %s: %s", name, request.method, request.path, request.remote, _summary(body)),
            extra={"request_id": name},
        )
    return body


async def read_fields(request: web.Request) -> set[str]:
    """The names of the body's fields; `read_body` parses it afterwards as what they make it. Raises as that does."""
    request[BODY] = data = await _received(request, RequestBody)
    return fields_of(data)


async def _received(request: web.Request, kind: type[RequestBody]) -> bytes:
    context = request.app[CONTEXT]
    check_open(context)
    _check_room(context, kind)
    data = await plain_body(request, context.limits, context.pools, request[SHARE])
    count(request)
    await context.turns.take()
    return data


def check_open(context: ServerContext) -> None:
    """Raise EngineDeadError once the server could not finish what arrives."""
    if context.refusing:
        raise EngineDeadError("the server is shutting down; ask another replica")


def count(request: web.Request) -> None:
    """Count the request as one that is being answered, unless it is a row of a batch: a drain does not wait for these."""
    context = request.app[CONTEXT]
    if not context.runs_rows:
        request[COUNTED] = True
        context.metrics.num_http_requests += 1


def _check_room(context: ServerContext, kind: type[Body]) -> None:
    """Raise QueueFullError or EngineDeadError for a request that the engine could not take, however its body reads."""
    if kind.generates:
        context.client.check_room()
    elif context.client.dead is not None:
        raise context.client.dead


def cache_salt(request: web.Request, body: SamplingBody) -> str:
    """The salt that separates the request's cached prefixes from others': the client's key, and the body's own salt.

    `cached_tokens` and the time to the first token reveal what was cached, so one key must not find another's prompts.
    Rows of batches have no key; they share a prefix that no key has.
    """
    salt = body.cache_salt or ""
    if request.app[CONTEXT].runs_rows:
        return f"batch:{salt}"
    key = request.get(KEY)
    return salt if key is None else f"{key}:{salt}"


def answer_id(request: web.Request, body: SamplingBody | PoolingBody, prefix: str) -> str:
    """The answer's id: the name that the client gave the request, in the header or in the body, or a fresh one."""
    if body.request_id and not _is_fit(request.headers.get(REQUEST_ID, "")):
        if _is_fit(body.request_id):
            request[REQUEST_ID] = body.request_id
        return f"{prefix}-{body.request_id}"
    return f"{prefix}-{request_id(request)}"


def request_id(request: web.Request) -> str:
    """The request's name, by which both sides' logs can be matched: the client's, or one that is made here once."""
    known: str | None = request.get(REQUEST_ID)
    if known is None:
        own = request.headers.get(REQUEST_ID, "")
        known = request[REQUEST_ID] = own if _is_fit(own) else uuid.uuid4().hex
    return known


def _name_of(request: web.Request, body: RequestBody) -> str:
    """The request's name, also where its body has it, as `answer_id` will take it."""
    own = getattr(body, "request_id", None)
    fit = isinstance(own, str) and _is_fit(own) and not _is_fit(request.headers.get(REQUEST_ID, ""))
    return str(own) if fit else request_id(request)


def _is_fit(name: str) -> bool:
    """True if a client's name for its request can be sent back in a header."""
    return 0 < len(name) <= MAX_REQUEST_ID and name.isprintable() and name.isascii()


def _summary(body: RequestBody) -> str:
    """The numbers and flags that were sent, and the number of other fields: no text and no token of the user's."""
    sent = body.model_fields_set
    known = {name: getattr(body, name) for name in type(body).model_fields if name in sent}
    shown = [f"{name}={value}" for name, value in known.items() if isinstance(value, int | float)]
    others = len(sent) - len(shown)
    return ", ".join([*shown, f"and {others} more fields"] if others else shown)
