"""POST /invocations: one path for every kind of request, recognized by its fields, as SageMaker calls it."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.admission import read_fields
from octavo_engine.server.routes.chat_completions import chat_completions
from octavo_engine.server.routes.completions import completions
from octavo_engine.server.routes.embeddings import embeddings
from octavo_engine.server.routes.scores import rerank, score

# The field that shows the kind of request; the first one that is there decides.
KINDS: tuple[tuple[str, Handler], ...] = (
    ("messages", chat_completions),
    ("prompt", completions),
    ("input", embeddings),
    ("documents", rerank),
    ("text_1", score),
)


async def invocations(request: web.Request) -> web.StreamResponse:
    """Answer as the endpoint does whose request this is."""
    fields = await read_fields(request)
    for field, handler in KINDS:
        if field in fields:
            return await handler(request)
    raise RequestError(f"this is no request that is known here: it needs one of {', '.join(name for name, _ in KINDS)}")
