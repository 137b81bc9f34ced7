"""The aiohttp application: routes, and what happens around each of them."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from octavo_engine.api_keys import ApiKeys
from octavo_engine.batches.rows import PATHS as BATCH_PATHS
from octavo_engine.server.answer.delivery import send
from octavo_engine.server.api_description.document import Description
from octavo_engine.server.auth import require_key
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.cross_origin import CrossOrigin
from octavo_engine.server.http_series import note_response
from octavo_engine.server.intake.admission import COUNTED, REQUEST_ID, SHARE, request_id
from octavo_engine.server.routes import description
from octavo_engine.server.routes.adapters import load_adapter, unload_adapter
from octavo_engine.server.routes.batched_chats import batched_chats
from octavo_engine.server.routes.batches import batch, batches, cancel_batch, create_batch
from octavo_engine.server.routes.chat_completions import chat_completions
from octavo_engine.server.routes.completions import completions
from octavo_engine.server.routes.decisions import decisions
from octavo_engine.server.routes.derendering import derender_chat, derender_completions
from octavo_engine.server.routes.development import (
    is_paused,
    is_sleeping,
    pause,
    reset_other_cache,
    reset_prefix_cache,
    resume,
    server_info,
    sleep,
    wake_up,
)
from octavo_engine.server.routes.embeddings import classify, embeddings, pooling
from octavo_engine.server.routes.files import delete_file, file, file_content, files, upload_file
from octavo_engine.server.routes.generative_scoring import generative_scoring
from octavo_engine.server.routes.invocations import invocations
from octavo_engine.server.routes.messages import count_tokens, messages
from octavo_engine.server.routes.rendering import render_chat, render_completions, render_messages, render_responses
from octavo_engine.server.routes.responses import cancel_response, delete_response, get_response, responses
from octavo_engine.server.routes.scores import rerank, score
from octavo_engine.server.routes.server_state import (
    health,
    kv_event_sources,
    load,
    model,
    models,
    show_metrics,
    show_version,
)
from octavo_engine.server.routes.tokenization import detokenize, tokenize, tokenizer_info
from octavo_engine.server.routes.tokens import abort_requests, generate
from octavo_engine.server.stored_batches.runs import BATCHES, BatchRuns
from octavo_engine.server.tracing import ORIGIN, TRACE_HEADERS, Origin

MAX_SHOWN_PATH = 64
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/health", health),
    ("GET", "/ping", health),
    ("POST", "/ping", health),
    ("GET", "/version", show_version),
    ("GET", "/load", load),
    ("GET", "/kv_event_sources", kv_event_sources),
    ("GET", "/metrics", show_metrics),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model:.+}", model),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/chat/completions", chat_completions),
    ("POST", "/v1/chat/completions/batch", batched_chats),
    ("POST", "/v1/responses", responses),
    ("GET", "/v1/responses/{response}", get_response),
    ("DELETE", "/v1/responses/{response}", delete_response),
    ("POST", "/v1/responses/{response}/cancel", cancel_response),
    ("POST", "/v1/messages", messages),
    ("POST", "/v1/messages/count_tokens", count_tokens),
    ("POST", "/v1/completions/render", render_completions),
    ("POST", "/v1/chat/completions/render", render_chat),
    ("POST", "/v1/messages/render", render_messages),
    ("POST", "/v1/responses/render", render_responses),
    ("POST", "/v1/completions/derender", derender_completions),
    ("POST", "/v1/chat/completions/derender", derender_chat),
    ("POST", "/inference/v1/generate", generate),
    ("POST", "/inference/v1/abort_requests", abort_requests),
    ("POST", "/v1/files", upload_file),
    ("GET", "/v1/files", files),
    ("GET", "/v1/files/{file}", file),
    ("DELETE", "/v1/files/{file}", delete_file),
    ("GET", "/v1/files/{file}/content", file_content),
    ("POST", "/v1/batches", create_batch),
    ("GET", "/v1/batches", batches),
    ("GET", "/v1/batches/{batch}", batch),
    ("POST", "/v1/batches/{batch}/cancel", cancel_batch),
    ("POST", "/v1/embeddings", embeddings),
    ("POST", "/pooling", pooling),
    ("POST", "/classify", classify),
    ("POST", "/score", score),
    ("POST", "/v1/score", score),
    ("POST", "/rerank", rerank),
    ("POST", "/v1/rerank", rerank),
    ("POST", "/v2/rerank", rerank),
    ("POST", "/tokenize", tokenize),
    ("POST", "/detokenize", detokenize),
    ("POST", "/generative_scoring", generative_scoring),
    ("POST", "/v1/systemone", decisions),
    ("POST", "/invocations", invocations),
)
ADAPTER_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/load_lora_adapter", load_adapter),
    ("POST", "/v1/unload_lora_adapter", unload_adapter),
)
DEVELOPMENT_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/pause", pause),
    ("POST", "/resume", resume),
    ("GET", "/is_paused", is_paused),
    ("POST", "/reset_prefix_cache", reset_prefix_cache),
    ("POST", "/reset_mm_cache", reset_other_cache),
    ("POST", "/reset_encoder_cache", reset_other_cache),
    ("POST", "/sleep", sleep),
    ("POST", "/wake_up", wake_up),
    ("GET", "/is_sleeping", is_sleeping),
    ("GET", "/server_info", server_info),
)


# What rows of batches are sent to.
ROW_ROUTES = (
    ("GET", "/health", health),
    *(route for route in ROUTES if route[0] == "POST" and route[1] in BATCH_PATHS),
)


def build_app(context: ServerContext, runs: BatchRuns | None = None) -> web.Application:
    """The application that serves `context`, and `runs` if batches are; `http_server` answers what it raises."""
    server = context.config.server
    middlewares: list[Middleware] = [_count_load]
    if context.metrics.tracing is not None:
        middlewares.append(_note_origin)
    cross_origin = CrossOrigin(server.allowed_origins)
    if server.allowed_origins:
        middlewares.append(cross_origin.middleware())
    if keys := ApiKeys(server.api_keys, server.api_key_file):
        middlewares.append(require_key(keys, server.root_path))
    app = web.Application(middlewares=middlewares)
    app[CONTEXT] = context
    if runs is not None:
        app[BATCHES] = runs
    api = context.config.api
    routes = [*ROUTES, *(DEVELOPMENT_ROUTES if api.development else ())]
    if context.config.adapters.enabled and context.config.adapters.runtime_updates:
        routes += ADAPTER_ROUTES
    if api.tokenizer_info:
        routes.append(("GET", "/tokenizer_info", tokenizer_info))
    if api.docs:
        routes += description.ROUTES
        described = Description(tuple(routes), root_path=server.root_path, needs_key=bool(keys))
        app[description.DESCRIPTION] = described.data
    for prefix in dict.fromkeys(("", server.root_path)):
        for method, path, handler in routes:
            app.router.add_route(method, prefix + path, handler)
            if method == "GET":
                app.router.add_route("HEAD", prefix + path, handler)
    app.on_response_prepare.append(note_response)
    app.on_response_prepare.append(_echo_request_id)
    app.on_response_prepare.append(_close_in_time)
    app.on_response_prepare.append(_add_load)
    app.on_response_prepare.append(cross_origin.add_headers)
    return app


@web.middleware
async def _count_load(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A request counts from its body's last byte, which may never come, to its answer's."""
    if request.method != "POST":
        return await handler(request)
    context = request.app[CONTEXT]
    _name_task(request)
    with context.bodies.share() as request[SHARE]:
        try:
            response = await handler(request)
            if isinstance(response, web.Response):
                await send(request, response)
            return response
        finally:
            if COUNTED in request:
                context.metrics.num_http_requests -= 1
                context.connections.request_ended()


@web.middleware
async def _note_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note whose sequences are started, for their spans. A connection's requests share one task."""
    headers = {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
    token = ORIGIN.set(Origin(headers, lambda: request_id(request)))
    try:
        return await handler(request)
    finally:
        ORIGIN.reset(token)


def _name_task(request: web.Request) -> None:
    """Name the task after its route, for the log of what has held up the event loop."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(f"{request.method} {request.path[:MAX_SHOWN_PATH]!r}")


async def _echo_request_id(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[REQUEST_ID] = request_id(request)


async def _add_load(request: web.Request, response: web.StreamResponse) -> None:
    """The engine's load in a header, in the form of ORCA (Open Request Cost Aggregation) that a load balancer asks for."""
    form = request.headers.get("endpoint-load-metrics-format", "").upper()
    if form not in {"TEXT", "JSON"}:
        return
    stats = request.app[CONTEXT].metrics.stats
    load = {"kv_cache_usage_perc": stats.kv_usage, "num_requests_waiting": float(stats.num_waiting)}
    text = ", ".join(f"named_metrics.{name}={value}" for name, value in load.items())
    value = text if form == "TEXT" else json.dumps({"named_metrics": load})
    response.headers["endpoint-load-metrics"] = f"{form} {value}"


async def _close_in_time(request: web.Request, response: web.StreamResponse) -> None:
    context = request.app[CONTEXT]
    if context.draining or context.connections.has_grown_old(request.task):
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has written its headers before it asks us
