"""POST …/derender: the answer that tokens amount to, which another server has generated, whole or chunk by chunk.

The tokens take the path of an engine's outputs, so that the answer is the one that a server of the whole request gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.reading import answer_reading
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.intake.admission import read_body
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
from octavo_engine.server.intake.token_bodies import (
    DerenderBody,
    DerenderChatBody,
    DerenderCompletionBody,
    Generated,
    StreamState,
)
from octavo_engine.server.intake.tools import NO_TOOLS, tool_use
from octavo_engine.server.recording import Recording
from octavo_engine.server.routes.derender_writers import (
    ChatDerenderer,
    CompletionDerenderer,
    DerenderedChunk,
    state_after,
)
from octavo_engine.server.routes.tokens import check_scale_out


async def derender_chat(request: web.Request) -> web.Response:
    """The answer to a chat."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    body = await read_body(request, DerenderChatBody)
    model = context.check_model(body.model)
    given = _given_chunk(context, body) if body.stream else _whole(context, body.generate_response)
    _check_format(context, body)
    logprobs = any(choice.logprobs is not None for choice in given.choices)
    chat = body.chat_request or ChatBody(messages=[])
    use = tool_use(context, chat) if body.chat_request is not None else NO_TOOLS
    reading = answer_reading(context, chat, use) if body.chat_request is not None else None
    chat = chat.model_copy(update={"logprobs": logprobs, "echo": False})
    prompt = _prompt(context, body.prompt_token_ids or given.prompt_token_ids, body.stream_state, given)
    recording = Recording.of(context, chat, [prompt], [given], reading, body.prompt_tokens or 0)
    writer = ChatDerenderer(context, chat, recording, given.request_id or "chatcmpl-derendered", model, use)
    if body.stream:
        return await _chunk(context, writer, recording, given, body.stream_state or StreamState(), body.prompt_tokens)
    writer.given = given
    return await writer.whole()


async def derender_completions(request: web.Request) -> web.Response:
    """The texts of completions, one for each prompt."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    body = await read_body(request, DerenderCompletionBody)
    model = context.check_model(body.model)
    given = [_given_chunk(context, body)] if body.stream else _responses(context, body)
    prompts, counts = _of_prompts(body, given)
    logprobs = any(choice.logprobs is not None for response in given for choice in response.choices)
    completion = body.completion_request or CompletionBody(prompt="")
    completion = completion.model_copy(update={"logprobs": 0 if logprobs else None, "echo": False})
    checked = [
        _prompt(context, prompt, body.stream_state, response) for prompt, response in zip(prompts, given, strict=True)
    ]
    recording = Recording.of(context, completion, checked, given, None, sum(counts))
    name = given[0].request_id or "cmpl-derendered"
    writer = CompletionDerenderer(context, completion, recording, name, model)
    if body.stream:
        return await _chunk(context, writer, recording, given[0], body.stream_state or StreamState(), sum(counts))
    writer.given = given[0]
    return await writer.whole()


async def _chunk(
    context: ServerContext,
    writer: ChatDerenderer | CompletionDerenderer,
    recording: Recording,
    given: Generated,
    state: StreamState,
    prompt_tokens: int | None,
) -> web.Response:
    """The next chunk of an answer, and what the client brings with the one after it."""

    def derender() -> DerenderedChunk:
        piece = recording.replayed(state) if given.choices else None
        chunk = writer.chunk(piece, given, first=not state.role_sent, prompt_tokens=prompt_tokens)
        return DerenderedChunk(chunk, state_after(state, given))

    return json_response(await context.pools.run("decode", derender))


def _check_format(context: ServerContext, body: DerenderChatBody) -> None:
    """Raise RequestError where an answer could not be read as the server's flags have it."""
    server = context.config.server
    if not (server.tool_call_parser or server.reasoning_parser):
        return
    if body.chat_request is None:
        raise RequestError(
            "chat_request is missing: this server reads tool calls or reasoning, which would be left in the content",
            "chat_request",
        )
    if body.stream and body.prompt_token_ids is None:
        raise RequestError(
            "prompt_token_ids is missing: whether the answer begins within reasoning follows from the prompt's end",
            "prompt_token_ids",
        )


def _given_chunk(context: ServerContext, body: DerenderBody) -> Generated:
    if body.generate_chunk is None:
        raise RequestError(
            "generate_chunk is missing: with stream it holds a chunk of a generate response", "generate_chunk"
        )
    if len(body.generate_chunk.choices) > 1:
        raise RequestError(
            f"generate_chunk has {len(body.generate_chunk.choices)} choices: send at most one choice per chunk, each "
            "choice with a stream_state of its own",
            "generate_chunk.choices",
        )
    state = body.stream_state
    if state is not None and sum(state.output_chunk_lens) != len(state.output_token_ids):
        raise RequestError(
            "stream_state.output_chunk_lens does not add up to its output_token_ids: send it as it was answered",
            "stream_state.output_chunk_lens",
        )
    _check_bounds(context, [body.generate_chunk])
    return body.generate_chunk


def _whole(context: ServerContext, given: Generated | None) -> Generated:
    if given is None:
        raise RequestError("generate_response is missing", "generate_response")
    _check_bounds(context, [given])
    if not given.choices or not all(choice.token_ids for choice in given.choices):
        raise RequestError("generate_response needs choices, and each of them token_ids", "generate_response.choices")
    return given


def _responses(context: ServerContext, body: DerenderCompletionBody) -> Sequence[Generated]:
    if not body.generate_responses:
        raise RequestError("generate_responses is empty: send one for each prompt", "generate_responses")
    _check_bounds(context, body.generate_responses)
    return [_whole(context, given) for given in body.generate_responses]


def _of_prompts(body: DerenderCompletionBody, given: Sequence[Generated]) -> tuple[list[list[int] | None], list[int]]:
    """The token ids of each prompt and their numbers, as far as they were sent."""
    sent, counts = body.prompt_token_ids, body.prompt_tokens
    if body.stream:
        if any(isinstance(part, list) for part in sent or ()) or isinstance(counts, list):
            raise RequestError(
                "with stream, prompt_token_ids and prompt_tokens are those of one prompt", "prompt_token_ids"
            )
        one = None if sent is None else [token for token in sent if isinstance(token, int)]
        return [one], [counts or 0]
    prompts = [None] * len(given) if sent is None else [part if isinstance(part, list) else None for part in sent]
    numbers = [0] * len(given) if counts is None else counts if isinstance(counts, list) else [counts]
    for name, values in (("prompt_token_ids", prompts), ("prompt_tokens", numbers)):
        if len(values) != len(given):
            raise RequestError(
                f"{name} has {len(values)} entries, and generate_responses {len(given)}: send one for each", name
            )
    return [prompt or response.prompt_token_ids for prompt, response in zip(prompts, given, strict=True)], numbers


def _prompt(context: ServerContext, prompt: list[int] | None, state: StreamState | None, given: Generated) -> list[int]:
    """A prompt's token ids, checked together with the tokens that follow it."""
    known = prompt or []
    earlier = 0 if state is None else len(state.output_token_ids)
    new = sum(len(choice.token_ids or ()) for choice in given.choices) if state is not None else 0
    if len(known) + earlier + new > context.max_model_len:
        raise RequestError(
            f"prompt_token_ids and the tokens of the answer are {len(known) + earlier + new}, more than the model's context "
            f"of {context.max_model_len} (max_model_len)",
            "prompt_token_ids",
        )
    context.check_token_ids(known, "prompt_token_ids")
    return known


def _check_bounds(context: ServerContext, responses: Sequence[Generated]) -> None:
    """Raise RequestError before time goes into more than a server would generate."""
    most, longest = context.limits.sequences, context.max_model_len
    if len(responses) > most:
        raise RequestError(
            f"generate_responses count ({len(responses)}) is more than {most}: send fewer", "generate_responses"
        )
    num_choices = sum(len(response.choices) for response in responses)
    if num_choices > most:
        raise RequestError(f"choices count ({num_choices}) is more than {most}: send fewer", "choices")
    top = context.config.server.max_logprobs
    for choice in (choice for response in responses for choice in response.choices):
        if len(choice.token_ids or ()) > longest:
            raise RequestError(
                f"token_ids of choice {choice.index} are {len(choice.token_ids or ())}, more than the model's context of "
                f"{longest} (max_model_len)",
                "token_ids",
            )
        context.check_token_ids(choice.token_ids or (), "token_ids")
        entries = [] if choice.logprobs is None else choice.logprobs.content or []
        if len(entries) > longest:
            raise RequestError(
                f"logprobs.content length ({len(entries)}) is more than the model's context of {longest} (max_model_len)",
                "logprobs.content",
            )
        if 0 <= top < choice.num_top:
            raise RequestError(
                f"top_logprobs count ({choice.num_top}) is more than are served: max_logprobs is {top} (--max-logprobs)",
                "top_logprobs",
            )
