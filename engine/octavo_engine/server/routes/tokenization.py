"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

import msgspec
from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.raw_lists import raw_list
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.intake.admission import read_body
from octavo_engine.server.intake.limits import FEW_TOKENS
from octavo_engine.server.intake.prompts import encode_prompts
from octavo_engine.server.intake.protocol import DetokenizeBody, TokenizeBody


class Tokens(msgspec.Struct):
    """The answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: msgspec.Raw
    token_strs: msgspec.Raw | None


class Text(msgspec.Struct):
    """The answer of /detokenize."""

    prompt: str


async def tokenize(request: web.Request) -> web.Response:
    """The token ids of a text, or of a chat as the model would read it."""
    context = request.app[CONTEXT]
    body = await read_body(request, TokenizeBody)
    context.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("send either prompt or messages", "prompt")
    (token_ids,) = await encode_prompts(context, body, must_fit=False)
    with_pieces = bool(body.return_token_strs)

    def write() -> web.Response:
        pieces = raw_list([context.tokenizer.piece(index) or "" for index in token_ids]) if with_pieces else None
        return json_response(Tokens(len(token_ids), context.max_model_len, raw_list(token_ids), pieces))

    return write() if len(token_ids) <= FEW_TOKENS else await context.pools.run("decode", write)


async def tokenizer_info(request: web.Request) -> web.Response:
    """The tokenizer's configuration and the chat template, where `--enable-tokenizer-info-endpoint` allows it."""
    context = request.app[CONTEXT]
    info = dict(context.tokenizer.config)
    if template := next(iter(context.chat_template.texts), None):
        info["chat_template"] = template
    info = {"tokenizer_class": "PreTrainedTokenizerFast", **context.tokenizer.special_tokens, **info}
    return web.json_response(info)


async def detokenize(request: web.Request) -> web.Response:
    """The text of token ids."""
    context = request.app[CONTEXT]
    body = await read_body(request, DetokenizeBody)
    context.check_model(body.model)
    context.check_token_ids(body.tokens, "tokens")
    return json_response(Text(await context.decode(body.tokens)))
