"""How a request comes in: its body, its names, and whether it is let in at all."""

from __future__ import annotations

import logging
import uuid
from typing import TypeVar

from aiohttp import web

from octavo_engine.errors import EngineDeadError
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.protocol import RequestBody, SamplingBody, parse_body
from octavo_engine.server.request_body import plain_body, too_large

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=RequestBody)
REQUEST_ID = "X-Request-Id"
MAX_REQUEST_ID = 256


async def read_body(request: web.Request, kind: type[Body]) -> Body:
    """The request's body, read up to the server's limit.

    Raises:
        RequestError: it is wrong (400), or larger than the limit (413).
        EngineDeadError: the server is about to end, or its engine is gone (503).
    """
    context = request.app[CONTEXT]
    if context.refusing:
        raise EngineDeadError("the server is shutting down; ask another replica")
    if context.client.dead is not None:
        raise context.client.dead
    limit = context.config.server.max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    body = parse_body(kind, await plain_body(request, limit))
    if context.config.server.enable_log_requests:
        logger.info("%s %s from %s: %s", request.method, request.path, request.remote, _summary(body))
    return body


def answer_id(request: web.Request, body: SamplingBody, prefix: str) -> str:
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


def _is_fit(name: str) -> bool:
    """Whether a client's name for its request can be sent back in a header."""
    return 0 < len(name) <= MAX_REQUEST_ID and name.isprintable() and name.isascii()


def _summary(body: RequestBody) -> str:
    """The fields that were sent, but for what the user said."""
    told = body.model_dump(exclude_unset=True, exclude={"prompt", "messages", "tokens", "documents"})
    return ", ".join(f"{name}={value!r}" for name, value in told.items())
