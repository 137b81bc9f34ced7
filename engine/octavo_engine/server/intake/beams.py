"""Refusals of what can't be asked for together with `use_beam_search`."""

from __future__ import annotations

from octavo_engine.errors import RequestError
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.limits import MAX_BEAMS
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody

WITHOUT = "use_beam_search is served without it: leave one of them out"


def check_beams(context: ServerContext, body: CompletionBody | ChatBody) -> None:
    """Raise RequestError for what a search for the likeliest answers can't honour; names the field.

    What only changes how a token is drawn (temperature, top_p, penalties, seed …) has no effect, as in vLLM.
    """
    if body.stream:
        raise RequestError(
            "stream: the best answers are known at the end only: leave stream out, or use_beam_search", "stream"
        )
    if body.response_format is not None and body.response_format.type != "text":
        raise RequestError(f"response_format: beams follow no grammar: {WITHOUT}", "response_format")
    if body.structured is not None:
        raise RequestError(f"structured_outputs: beams follow no grammar: {WITHOUT}", "structured_outputs")
    for name in ("logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "logprob_token_ids"):
        if getattr(body, name):
            raise RequestError(f"{name}: {WITHOUT}", name)
    for name in ("thinking_token_budget", "repetition_detection"):
        if getattr(body, name) is not None:
            raise RequestError(f"{name}: {WITHOUT}", name)
    if body.prompt_logprobs_asked is not None:
        name = "prompt_logprobs" if body.prompt_logprobs is not None else "echo"
        raise RequestError(f"{name}: no log-probabilities of the prompt are made: {WITHOUT}", name)
    if body.max_tokens_asked == 0:
        raise RequestError("max_tokens is 0, and beams have at least one token: ask for 1 or more", "max_tokens")
    most = min(MAX_BEAMS, context.vocab_size // 2)
    if (body.n or 1) > most:
        raise RequestError(f"n is {body.n}; at most {most} beams are served of one prompt: send a smaller n", "n")
