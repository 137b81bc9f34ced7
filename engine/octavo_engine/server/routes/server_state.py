"""The endpoints about the server itself: models, health, version, load, metrics."""

from __future__ import annotations

import socket
import time

import msgspec
from aiohttp import web

from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.own_version import own_version
from octavo_engine.server.served_adapters import ServedAdapter

MAX_ACCEPT = 1024  # characters of it that are looked at


class ModelCard(msgspec.Struct):
    """One name that the server answers to."""

    id: str
    created: int
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "octavo"
    parent: str | None = None
    permission: list[dict[str, str]] = []


class ModelList(msgspec.Struct):
    """The answer of /v1/models."""

    data: list[ModelCard]
    object: str = "list"


class Status(msgspec.Struct):
    """The state of something: of /health ok, or why not."""

    status: str


class Version(msgspec.Struct):
    """The answer of /version."""

    version: str


class Load(msgspec.Struct):
    """The answer of /load."""

    server_load: int


async def kv_event_sources(request: web.Request) -> web.Response:  # noqa: ARG001 — there are none
    """Name no source of KV events: none are published, so that a router that asks goes on without."""
    return web.json_response({})


def _card(context: ServerContext, name: str) -> ModelCard:
    return ModelCard(name, context.started, context.config.model.model, context.max_model_len)


def _adapter_card(context: ServerContext, adapter: ServedAdapter) -> ModelCard:
    return ModelCard(adapter.name, adapter.created, adapter.path, context.max_model_len, parent=adapter.parent)


async def models(request: web.Request) -> web.Response:
    """All names of the model, and its adapters."""
    context = request.app[CONTEXT]
    own = [_card(context, name) for name in context.names]
    return json_response(ModelList([*own, *(_adapter_card(context, adapter) for adapter in context.adapters.all())]))


async def model(request: web.Request) -> web.Response:
    """One name of the model, or one adapter."""
    context = request.app[CONTEXT]
    name = context.check_model(request.match_info["model"])
    adapter = context.adapters.get(name)
    return json_response(_card(context, name) if adapter is None else _adapter_card(context, adapter))


def health_of(context: ServerContext) -> str | None:
    """The problem that keeps the engine from serving new requests; None if there is none."""
    if context.client.dead is not None:
        return f"the engine is gone: {context.client.dead}"
    if context.draining:
        return "draining: the server is shutting down"
    silent = time.monotonic() - context.client.last_heard
    if silent > context.config.server.health_timeout:
        return f"the engine has been silent for {silent:.0f} s"
    return None


async def health(request: web.Request) -> web.Response:
    """The engine's heartbeat: 200, or 503 if it is dead, silent for too long, or draining."""
    problem = health_of(request.app[CONTEXT])
    return json_response(Status(problem or "ok"), status=503 if problem else 200)


async def show_version(_request: web.Request) -> web.Response:
    """Octavo's version."""
    return json_response(Version(own_version()))


async def load(request: web.Request) -> web.Response:
    """Requests that are being answered now."""
    return json_response(Load(request.app[CONTEXT].metrics.num_http_requests))


async def show_metrics(request: web.Request) -> web.Response:
    """Prometheus' exposition. A scraper checks by the host's name, which is a pod's, that it has reached the right pod."""
    context = request.app[CONTEXT]
    await context.turns.take()
    data, content_type = context.metrics.render(request.headers.get("Accept", "")[:MAX_ACCEPT])
    return web.Response(body=data, headers={"Content-Type": content_type, "X-Octavo-Host": socket.gethostname()})
