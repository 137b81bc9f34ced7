"""Sentences for the senders of requests that can't be served, and the checks that precede them."""

from __future__ import annotations

from collections.abc import Collection

from octavo_engine.core.block_manager import BlockManager
from octavo_engine.core.request import Sequence
from octavo_engine.messages import EngineRequest, PoolingRequest

MAX_TOKEN_ID = 2**32 - 1  # digests are over four bytes a token
DUPLICATE_ID = "this request id is in use already; every request needs one of its own"
NOTHING_TO_DRAW = (
    "no token can be drawn: allowed_token_ids, bad_words and the stop tokens before min_tokens together ban every one; "
    "allow more tokens or ban fewer"
)
NOTHING_POOLED = "the model made no vector of this prompt"
POOLS = (
    "this model makes embeddings or scores, and generates nothing: send the request to /v1/embeddings, /pooling, "
    "/classify, /score or /rerank, or serve a model that generates"
)
GENERATES = (
    "this model generates, and makes no embeddings or scores: serve an embedding model or a reranker, or serve it with "
    "--runner pooling"
)
NOTHING_DRAWN = "the model drew no token for this request"


def problem_with(
    request: EngineRequest | PoolingRequest, max_model_len: int, max_whole_prompt: int | None
) -> str | None:
    """The reason why a request can't be served; None if it can. `max_whole_prompt`: tokens of a step, if prompts are
    not cut.
    """
    prompt = request.prompt_token_ids
    if not prompt:
        return "the prompt is empty: it needs at least one token"
    if isinstance(request, PoolingRequest):
        if len(prompt) > max_model_len:
            return f"the prompt has {len(prompt)} tokens and the model's context {max_model_len}: shorten the prompt"
    elif len(prompt) + min(request.sampling.max_tokens, 1) > max_model_len:
        return (
            f"the prompt has {len(prompt)} tokens and the model's context {max_model_len}, of which the "
            "output needs at least one: shorten the prompt, or serve with a larger --max-model-len"
        )
    if max_whole_prompt is not None and len(prompt) > max_whole_prompt:
        return (
            f"the prompt has {len(prompt)} tokens, and without chunked prefill a step takes {max_whole_prompt}: "
            "shorten the prompt, or serve with --enable-chunked-prefill or a larger --max-num-batched-tokens"
        )
    if min(prompt) < 0 or max(prompt) > MAX_TOKEN_ID:
        return f"the prompt has token ids outside 0 to {MAX_TOKEN_ID}: send ids of this model's vocabulary"
    return None


def never_fits(seq: Sequence, block_manager: BlockManager) -> str:
    """The error of a sequence that the KV cache can't hold even alone."""
    totals = [pool.total for pool in block_manager.pools]
    return (
        f"{len(seq.token_ids)} tokens do not fit the KV cache, which has {totals} blocks of "
        f"{block_manager.block_size} tokens: serve with a larger --kv-cache-memory-bytes or a smaller --max-model-len"
    )


def ids_outside_of(request: EngineRequest | PoolingRequest, vocab_size: int | None) -> str | None:
    """The field with token ids that the model's vocabulary lacks, in a sentence for its sender; None if there is none."""
    if vocab_size is None:
        return None
    fields: list[tuple[str, Collection[int]]] = [("the prompt", request.prompt_token_ids)]
    if isinstance(request, EngineRequest):
        sampling = request.sampling
        fields += [
            ("logit_bias", sampling.logit_bias),
            ("allowed_token_ids", sampling.allowed_token_ids),
            ("logprob_token_ids", sampling.logprob_token_ids),
            ("stop_token_ids", sampling.stop_token_ids),
            ("bad_words", [token for word in sampling.bad_words for token in word]),
            ("thinking_token_budget", () if sampling.thinking is None else sampling.thinking.forced),
        ]
    for field, ids in fields:
        if ids and (max(ids) >= vocab_size or min(ids) < 0):
            return f"{field} has token ids outside of this model's vocabulary, which has {vocab_size}"
    return None
