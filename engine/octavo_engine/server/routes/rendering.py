"""POST …/render: what a request amounts to, as token ids and sampling parameters, without generating anything."""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_list, json_response
from octavo_engine.server.answer.raw_lists import raw_list
from octavo_engine.server.answer.token_responses import GenerateRequest
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import turn_stops
from octavo_engine.server.intake.admission import answer_id, read_body
from octavo_engine.server.intake.answer_constraints import format_of, prompt_end
from octavo_engine.server.intake.messages import MessagesBody
from octavo_engine.server.intake.messages import chat_of as chat_of_messages
from octavo_engine.server.intake.prepare import Prompt, prepare
from octavo_engine.server.intake.prompts import prompt_offsets, template_variables
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
from octavo_engine.server.intake.responses import ResponsesBody
from octavo_engine.server.intake.responses import chat_of as chat_of_responses
from octavo_engine.server.intake.tools import NO_TOOLS, tool_use
from octavo_engine.server.routes.tokens import check_scale_out
from octavo_engine.text.answer_parser import prompt_closes_reasoning

# Fields of `SamplingParams` that a generate request has under the same name.
ALIKE = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "min_tokens", "ignore_eos", "logprobs", "prompt_logprobs"),
)


async def render_completions(request: web.Request) -> web.Response:
    """The generate request of each prompt."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    body = await read_body(request, CompletionBody)
    model = context.check_model(body.model)
    prompts = await prepare(context, body, NO_TOOLS)
    offsets = await prompt_offsets(context, body) if body.return_token_offsets else [None] * len(prompts)
    name = answer_id(request, body, "cmpl")
    names = [name] if len(prompts) == 1 else [f"{name}-{i}" for i in range(len(prompts))]
    return json_list(
        [
            _generate_request(context, body, prompt, name, model, at)
            for prompt, name, at in zip(prompts, names, offsets, strict=True)
        ]
    )


async def render_chat(request: web.Request) -> web.Response:
    """The generate request of a chat."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    body = await read_body(request, ChatBody)
    return json_response(await _rendered(context, body, answer_id(request, body, "chatcmpl")))


async def render_messages(request: web.Request) -> web.Response:
    """The generate request of a conversation of Anthropic's API."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    body = chat_of_messages(await read_body(request, MessagesBody))
    return json_response(await _rendered(context, body, answer_id(request, body, "chatcmpl")))


async def render_responses(request: web.Request) -> web.Response:
    """The generate request of a conversation of items."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    given = await read_body(request, ResponsesBody)
    if given.previous_response_id is not None:
        raise RequestError(
            "previous_response_id: nothing is stored by rendering: send the conversation whole", "previous_response_id"
        )
    return json_response(await _rendered(context, chat_of_responses(given, []), f"resp_{uuid.uuid4().hex}"))


async def _rendered(context: ServerContext, body: ChatBody, name: str) -> GenerateRequest:
    model = context.check_model(body.model)
    (prompt,) = await prepare(context, body, tool_use(context, body))
    offsets = (await prompt_offsets(context, body))[0] if body.return_token_offsets else None
    rendered = _generate_request(context, body, prompt, name, model, offsets)
    answer_format = format_of(context, body)
    if context.answer_format is not None and context.answer_format.reasoning is not None:
        ended = answer_format is None or answer_format.reasoning is None
        if answer_format is not None and not ended:
            ended = prompt_closes_reasoning(answer_format, prompt_end(context.tokenizer, prompt.token_ids))
        rendered.reasoning_ended = ended
        rendered.reasoning_parser_kwargs = {"chat_template_kwargs": template_variables(context, body)}
    return rendered


def _generate_request(
    context: ServerContext,
    body: CompletionBody | ChatBody,
    prompt: Prompt,
    name: str,
    model: str,
    offsets: list[tuple[int, int]] | None,
) -> GenerateRequest:
    rendered = GenerateRequest(
        name, raw_list(prompt.token_ids), _sampling_params(context, body, prompt), model, offsets
    )
    rendered.return_token_ids = body.return_token_ids
    rendered.cache_salt, rendered.priority = body.cache_salt, body.priority
    if body.stream:
        rendered.stream = True
        rendered.stream_options = None if body.stream_options is None else body.stream_options.model_dump()
    return rendered


def _sampling_params(context: ServerContext, body: CompletionBody | ChatBody, prompt: Prompt) -> dict[str, Any]:
    """The complete parameters, in the names of a generate request: nothing is left to the defaults of what generates."""
    if body.use_beam_search:
        raise RequestError(
            "use_beam_search: a generate request draws its tokens: leave it out, or send the request whole",
            "use_beam_search",
        )
    sampling = prompt.sampling[0]
    ends = set(sampling.eos_token_ids) - set(context.eos_token_ids)  # of the request's own chat template
    fields: dict[str, Any] = {name: getattr(sampling, name) for name in ALIKE}
    return fields | {
        "n": len(prompt.sampling),
        "seed": body.seed,
        "stop": [*body.stop_strings, *turn_stops(context, body)],
        "stop_token_ids": [*sampling.stop_token_ids, *sorted(ends)],
        "logit_bias": {str(index): bias for index, bias in sampling.logit_bias.items()} or None,
        "allowed_token_ids": list(sampling.allowed_token_ids) or None,
        "bad_words": body.bad_words,
        "thinking_token_budget": body.thinking_token_budget,
        "repetition_detection": body.repetition_detection and body.repetition_detection.model_dump(),
        "structured_outputs": {"grammar": sampling.grammar} if sampling.grammar else None,
        "detokenize": True,
        **{
            name: getattr(body, name)
            for name in ("skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output")
        },
    }
