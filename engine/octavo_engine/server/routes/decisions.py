"""POST /v1/systemone: decisions about a state, each read from the first token of an answer that is never written."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.intake.admission import read_body, request_id
from octavo_engine.server.intake.decisions import DecisionBody, Question, read_questions
from octavo_engine.server.intake.prompts import encode_prompts
from octavo_engine.server.intake.protocol import ChatBody
from octavo_engine.server.routes.label_logprobs import draw_labels


class Diagnostics(msgspec.Struct):
    """The share of the probability that the labels have, and whether the likeliest token is one of them."""

    label_mass: float
    argmax_is_label: bool


class DecisionUsage(msgspec.Struct):
    """Tokens of all questions together."""

    input_tokens: int
    output_tokens: int


class Decisions(msgspec.Struct):
    """The answer, in the order of the questions."""

    id: str
    created: int
    model: str
    answers: dict[str, dict[str, Any]]
    usage: DecisionUsage
    diagnostics: dict[str, Diagnostics]
    object: str = "structured_decision"


async def decisions(request: web.Request) -> web.Response:
    """Decide each question by the probabilities of its options' labels."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, DecisionBody)
    model = context.check_model(body.model)
    questions = read_questions(body)
    labels = {label: _label_id(context, label) for question in questions for label in question.labels}
    generation, drawn = await draw_labels(
        request,
        [await _prompt(context, body, question) for question in questions],
        list(labels.values()),
        arrived,
        model=model,
        salt=body.cache_salt,
        priority=body.priority,
    )
    answers: dict[str, dict[str, Any]] = {}
    diagnostics: dict[str, Diagnostics] = {}
    for index, question in enumerate(questions):
        known = dict(drawn[index].top)
        ids = [labels[label] for label in question.labels]
        answers[question.name], mass = question.answer([known[token_id] for token_id in ids])
        diagnostics[question.name] = Diagnostics(mass, drawn[index].token_id in ids)
    used = DecisionUsage(generation.num_prompt_tokens, generation.num_completed)
    name = f"decision-{request_id(request)}"
    return json_response(Decisions(name, generation.created, model, answers, used, diagnostics))


async def _prompt(context: ServerContext, body: DecisionBody, question: Question) -> list[int]:
    chat = ChatBody(
        messages=[{"role": "user", "content": question.prompt(body)}],
        chat_template_kwargs={"enable_thinking": False, **(body.chat_template_kwargs or {})},
    )
    (token_ids,) = await encode_prompts(context, chat, must_fit=True)
    return token_ids


def _label_id(context: ServerContext, label: str) -> int:
    token_ids = context.tokenizer.encode(label, add_special_tokens=False)
    if len(token_ids) != 1:
        raise RequestError(
            f"the label {label!r} is not one token of this model, so nothing can be decided by it", "questions"
        )
    return token_ids[0]
