"""One draw behind each prompt, with the log-probabilities of labels: what decisions and scores are read from."""

from __future__ import annotations

from aiohttp import web
from msgspec.structs import replace

from octavo_engine.messages import TokenLogprob
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.generation import Generation, start
from octavo_engine.server.intake.admission import SHARE, cache_salt
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import CompletionBody
from octavo_engine.server.intake.tools import NO_TOOLS


async def draw_labels(
    request: web.Request,
    prompts: list[list[int]],
    label_token_ids: list[int],
    arrived: float,
    *,
    model: str,
    salt: str | None,
    priority: int,
) -> tuple[Generation, dict[int, TokenLogprob]]:
    """The ended generation, and by the prompt's index the token that is likeliest to follow it with all labels'.

    `model` is the name that `check_model` gave.
    """
    context = request.app[CONTEXT]
    completion = CompletionBody(
        prompt=prompts,
        max_tokens=1,
        temperature=0.0,
        logprobs=0,
        logprob_token_ids=label_token_ids,
        ignore_eos=True,
        cache_salt=salt,
        priority=priority,
    )
    prepared = await prepare(context, completion, NO_TOOLS)
    for prompt in prepared:  # probabilities are made of them
        prompt.sampling = tuple(replace(params, logprobs_mode="raw_logprobs") for params in prompt.sampling)
    generation = start(context, completion, prepared, arrived, cache_salt(request, completion), model)
    completion.prompt = ""  # the engine has its tokens: free the memory
    del prompts
    request[SHARE].give_back()
    drawn: dict[int, TokenLogprob] = {}
    try:
        while pieces := await generation.take():
            drawn |= {piece.choice.index: piece.logprobs[0] for piece in pieces if piece.logprobs}
    finally:
        generation.close()
    return generation, drawn
