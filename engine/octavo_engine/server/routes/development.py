"""Endpoints that change the state of the whole server: for development, behind `--enable-development-endpoints`."""

from __future__ import annotations

import asyncio
from typing import cast, get_args

import msgspec
from aiohttp import web

from octavo_engine.core_client.engine_client import POLL_SECONDS, PauseMode
from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.own_version import own_version
from octavo_engine.server.routes.server_state import Status

ANSWER_SECONDS = 1.0


class IsPaused(msgspec.Struct):
    """The answer of /is_paused."""

    is_paused: bool


class IsSleeping(msgspec.Struct):
    """The answer of /is_sleeping."""

    is_sleeping: bool


async def pause(request: web.Request) -> web.Response:
    """Hold new requests back; what runs is aborted, finished or kept, by `mode`. `clear_cache` drops cached prefixes."""
    context = request.app[CONTEXT]
    mode = request.query.get("mode", "abort")
    if mode not in get_args(PauseMode):
        raise RequestError(f"mode is {mode[:40]!r}; it must be one of {', '.join(get_args(PauseMode))}", "query.mode")
    await context.client.pause(cast("PauseMode", mode))
    if mode != "keep":
        await _until_answered(context)
    if _switch(request, "clear_cache", default=True):
        context.client.reset_prefix_cache()
    return json_response(Status("paused"))


async def _until_answered(context: ServerContext) -> None:
    """Wait until the clients of what has ended have their answers; not for long, since some may read slowly."""
    for _ in range(int(ANSWER_SECONDS / POLL_SECONDS)):
        if context.metrics.num_http_requests <= context.client.num_held:
            return
        await asyncio.sleep(POLL_SECONDS)


async def resume(request: web.Request) -> web.Response:
    """Run what was held back or kept."""
    request.app[CONTEXT].client.resume()
    return json_response(Status("resumed"))


async def is_paused(request: web.Request) -> web.Response:
    """Say whether requests are held back."""
    return json_response(IsPaused(request.app[CONTEXT].client.is_paused))


async def reset_prefix_cache(request: web.Request) -> web.Response:
    """Drop the cached prefixes that no running request uses."""
    request.app[CONTEXT].client.reset_prefix_cache()
    return web.Response()


async def reset_other_cache(request: web.Request) -> web.Response:  # noqa: ARG001 — there is none
    """Drop the cached inputs and outputs of encoders, of which there are none: models take text alone."""
    return web.Response()


async def sleep(request: web.Request) -> web.Response:
    """Hold requests back and give the memory of the KV blocks back (`level` 1), or only hold them back (0).

    What runs is aborted or finished, by `mode`.
    """
    context = request.app[CONTEXT]
    level, mode = request.query.get("level", "1"), request.query.get("mode", "abort")
    if level == "2":
        raise RequestError("level 2 would free the weights, which are kept: use level 1", "query.level", status=501)
    if level not in {"0", "1"}:
        raise RequestError(f"level is {level[:40]!r}; it must be 0 or 1", "query.level")
    if mode not in {"abort", "wait"}:
        raise RequestError(f"mode is {mode[:40]!r}; it must be abort or wait", "query.mode")
    if level == "1" and not context.ready.sleeps:
        raise RequestError("this engine can't give its memory back: use /pause to hold requests", status=501)
    quiet = await context.client.pause(cast("PauseMode", mode))
    await _until_answered(context)
    if not quiet or not context.client.is_paused:
        raise RequestError(
            "requests still run, or are kept by a /pause: the engine was not put to sleep; /resume it, and use mode=abort",
            "query.mode",
            status=409,
        )
    if level == "1":
        await context.client.pause("keep", sleep=True)
        context.metrics.asleep = True
    return web.Response()


async def wake_up(request: web.Request) -> web.Response:
    """Allocate the KV blocks again and run what was held back; with `tags` once kv_cache is among them."""
    context = request.app[CONTEXT]
    tags = request.query.getall("tags", [])
    if unknown := set(tags) - {"weights", "kv_cache"}:
        raise RequestError(f"tags has {min(unknown)[:40]!r}; it may have weights and kv_cache", "query.tags")
    if not tags or "kv_cache" in tags:
        context.client.resume()
        context.metrics.asleep = False
    return web.Response()


async def is_sleeping(request: web.Request) -> web.Response:
    """Say whether the memory of the KV blocks is given back."""
    return json_response(IsSleeping(is_sleeping=request.app[CONTEXT].client.is_asleep))


async def server_info(request: web.Request) -> web.Response:
    """Show the configuration that the server was started with, API keys left out, as JSON or as one text."""
    form = request.query.get("config_format", "text")
    if form not in {"text", "json"}:
        raise RequestError(f"config_format is {form[:40]!r}; it must be text or json", "query.config_format")
    config = request.app[CONTEXT].config
    shown = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, api_keys=()))
    # vLLM's name for it; what it holds is this engine's.
    info = {"vllm_config": repr(shown) if form == "text" else msgspec.to_builtins(shown), "version": own_version()}
    return web.json_response(info)


def _switch(request: web.Request, name: str, *, default: bool) -> bool:
    given = request.query.get(name)
    if given is None:
        return default
    if given.lower() not in {"true", "false", "1", "0"}:
        raise RequestError(f"{name} is {given[:40]!r}; it must be true or false", f"query.{name}")
    return given.lower() in {"true", "1"}
