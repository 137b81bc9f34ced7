"""How a request comes in: its body, its names, and whether it is let in at all."""

from __future__ import annotations

import logging
import uuid
from typing import TypeVar

from aiohttp import web

from octavo_engine.errors import EngineDeadError, RequestError
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.protocol import RequestBody, SamplingBody, parse_body

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
        raise RequestError(f"the body is larger than {limit // 2**20} MiB; send less at once", status=413)
    body = parse_body(kind, await request.read())
    if context.config.server.enable_log_requests:
        logger.info("%s %s from %s: %s", request.method, request.path, request.remote, _summary(body))
    return body


def answer_id(request: web.Request, body: SamplingBody, prefix: str) -> str:
    """The answer's id: the client's own name for the request, or a fresh one."""
    own = request_id(request) or body.request_id
    return f"{prefix}-{own or uuid.uuid4().hex}"


def request_id(request: web.Request) -> str | None:
    """The client's X-Request-Id, if it is fit to be sent back."""
    value = request.headers.get(REQUEST_ID)
    return value if value and len(value) <= MAX_REQUEST_ID and value.isprintable() and value.isascii() else None


def _summary(body: RequestBody) -> str:
    """The fields that were sent, but for what the user said."""
    told = body.model_dump(exclude_unset=True, exclude={"prompt", "messages", "tokens", "documents"})
    return ", ".join(f"{name}={value!r}" for name, value in told.items())
