"""Sampling in plain numpy, float64: the order of processing, ties and random numbers that executors share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octavo_engine.sampling_params import SamplingParams

MASK = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 in Python's whole numbers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def gumbel(vocab: int, seed: int, position: int) -> NDArray[np.float64]:
    words = [w for block in range(-(-vocab // 4)) for w in philox((block, position, 0, 0), (seed & MASK, seed >> 32))]
    u = ((np.array(words[:vocab], dtype=np.uint64) >> np.uint64(8)).astype(np.float64) + 0.5) * 2.0**-24
    return -np.log(-np.log(u))


def processed(logits, prompt: Sequence[int], output: Sequence[int], params: SamplingParams) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        x[token] += bias
    if params.allowed_token_ids:
        banned = np.ones(len(x), bool)
        banned[list(params.allowed_token_ids)] = False
        x[banned] = -np.inf
    if len(output) < params.min_tokens:
        x[[*params.eos_token_ids, *params.stop_token_ids]] = -np.inf
    for *prefix, last in params.bad_words:
        if not prefix or list(output[-len(prefix) :]) == prefix:
            x[last] = -np.inf
    for token in {*prompt, *output}:
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token in set(output):
        x[token] -= params.frequency_penalty * list(output).count(token) + params.presence_penalty
    return x


def probabilities(x: NDArray[np.float64], params: SamplingParams) -> NDArray[np.float64]:
    """The probability of each token to be drawn from processed logits; temperature above zero."""
    x = x / params.temperature
    kept = x > -np.inf
    if params.min_p:
        kept &= x >= x.max() + np.log(params.min_p)
    order = [i for i in np.lexsort((np.arange(len(x)), -x)) if kept[i]]
    if params.top_k:
        order = order[: params.top_k]
    p = np.exp(x[order] - x.max())
    p /= p.sum()
    if params.top_p < 1:
        count = max(1, int((np.cumsum(p) - p < params.top_p).sum()))
        order, p = order[:count], p[:count] / p[:count].sum()
    out = np.zeros(len(x))
    out[order] = p
    return out


def drawn(x: NDArray[np.float64], params: SamplingParams, position: int) -> int:
    if params.temperature == 0:
        return int(x.argmax())
    kept = probabilities(x, params) > 0
    return int(np.where(kept, x / params.temperature + gumbel(len(x), params.seed, position), -np.inf).argmax())
