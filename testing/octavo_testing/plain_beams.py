"""Beam search over a function from tokens to log-probabilities, in numpy, to its full length: what the server's is compared with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np


def plain_beam_search(
    logprobs_of: Callable[[list[int]], Any],
    prompt: list[int],
    *,
    width: int,
    max_tokens: int,
    ends: Collection[int],
    length_penalty: float = 1.0,
) -> list[tuple[list[int], float, bool]]:
    """(tokens of the answer, its log-probability, whether it ended) of the `width` best, the best first.

    `logprobs_of(tokens)` has an element for each token of the vocabulary.
    """
    live: list[tuple[list[int], float]] = [([], 0.0)]
    done: list[tuple[list[int], float, bool]] = []
    for _ in range(max_tokens):
        offered = []
        for tokens, total in live:
            row = np.asarray(logprobs_of(prompt + tokens), np.float64)
            best = np.argsort(-row, kind="stable")[: 2 * width].tolist()
            offered += [([*tokens, token], total + float(row[token])) for token in best]
        done += [(tokens, total, True) for tokens, total in offered if tokens[-1] in ends]
        going = sorted((o for o in offered if o[0][-1] not in ends), key=lambda offer: -offer[1])
        live = going[:width]
    done += [(tokens, total, False) for tokens, total in live]

    def score(answer: tuple[list[int], float, bool]) -> float:
        tokens, total, ended = answer
        return float(total / (len(prompt) + len(tokens) - ended) ** length_penalty)

    return sorted(done, key=score, reverse=True)[:width]
