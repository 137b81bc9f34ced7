"""Loading and unloading low-rank adapters while the server runs, as vLLM's endpoints do."""

from __future__ import annotations

from typing import Annotated, ClassVar

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.intake.admission import read_body
from octavo_engine.server.intake.protocol import NULL_IS_ABSENT, Flag, RequestBody
from octavo_engine.server.served_adapters import INVALID

Text = Annotated[str, NULL_IS_ABSENT]


class LoadAdapterBody(RequestBody):
    """The body of /v1/load_lora_adapter."""

    generates: ClassVar[bool] = False

    lora_name: Text = ""
    lora_path: Text = ""
    load_inplace: Flag = False


class UnloadAdapterBody(RequestBody):
    """The body of /v1/unload_lora_adapter."""

    generates: ClassVar[bool] = False

    lora_name: Text = ""


async def load_adapter(request: web.Request) -> web.Response:
    """Load an adapter from a path of the server's, or from a hub."""
    body = await read_body(request, LoadAdapterBody)
    if not body.lora_name or not body.lora_path:
        absent = "lora_path" if body.lora_name else "lora_name"
        raise RequestError("Both 'lora_name' and 'lora_path' must be provided.", absent, type_=INVALID)
    await request.app[CONTEXT].adapters.load(body.lora_name, body.lora_path, in_place=body.load_inplace)
    return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")


async def unload_adapter(request: web.Request) -> web.Response:
    """Unload an adapter; what has begun with it is finished."""
    body = await read_body(request, UnloadAdapterBody)
    if not body.lora_name:
        raise RequestError("'lora_name' needs to be provided to unload a LoRA adapter.", "lora_name", type_=INVALID)
    await request.app[CONTEXT].adapters.unload(body.lora_name)
    return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")
