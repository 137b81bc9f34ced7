"""POST /v1/chat/completions/batch: several chats with the same parameters, a choice each."""

from __future__ import annotations

import time
from typing import Annotated

from aiohttp import web
from pydantic import Field

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.reading import answer_reading
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.generation import start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.prepare import check_num_sequences, check_num_tokens, prepare
from octavo_engine.server.intake.protocol import ChatBody, Objects
from octavo_engine.server.intake.tools import NO_TOOLS
from octavo_engine.server.routes.chat_completions import ChatWriter, response_role


class BatchedChatsBody(ChatBody):
    """The fields of a chat, with a list of conversations for `messages`."""

    messages: Annotated[list[Objects], Field(min_length=1, fail_fast=True)]  # type: ignore[assignment]


async def batched_chats(request: web.Request) -> web.StreamResponse:
    """Answer each conversation with one choice; `index` is its place among them."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, BatchedChatsBody)
    model = context.check_model(body.model)
    for field, problem in (("stream", body.stream), ("tools", body.tools), ("n", (body.n or 1) > 1)):
        if problem:
            raise RequestError(f"{field}: a batch of chats is answered whole, without tools, one choice each", field)
    check_num_sequences(context, len(body.messages), 1)
    chats = [
        ChatBody.model_construct(body.model_fields_set, **{**dict(body), "messages": messages})
        for messages in body.messages
    ]
    prompts = [prompt for chat in chats for prompt in await prepare(context, chat, NO_TOOLS)]
    check_num_tokens(context, [prompt.token_ids for prompt in prompts], 1)
    chat = chats[0]
    reading, role = answer_reading(context, chat, NO_TOOLS), response_role(context, chat)
    generation = start(context, chat, prompts, arrived, cache_salt(request, chat), model, reading)
    body.messages = []
    for chat in chats:
        chat.messages = []  # the engine has the tokens: free the memory
    request[SHARE].give_back()
    writer = ChatWriter(context, chat, generation, answer_id(request, body, "chatcmpl"), model, NO_TOOLS, role)
    try:
        return await writer.whole()
    finally:
        generation.close()
