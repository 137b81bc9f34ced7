"""The beams of one prompt: which continuations are kept, which have ended, and which are the best. Pure.

The semantics are vLLM's: each beam offers its `2 * width` likeliest next tokens; those that end an answer complete it, the
best `width` of the others go on; in the end the best of all count, by the sum of log-probabilities over a power of the length.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from octavo_engine.messages import TokenLogprob


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """A beginning of an answer, or all of one."""

    token_ids: tuple[int, ...] = ()
    entries: tuple[TokenLogprob, ...] = ()  # one for each token: its own, and the likeliest in its place
    logprob: float = 0.0  # of all tokens together
    ended: bool = False  # by its last token


class BeamSearch:
    """The search for the `width` best answers of at most `max_tokens` tokens.

    `ends` are the tokens that complete an answer. The length that a sum of log-probabilities is divided by, to the power of
    `length_penalty`, counts the prompt's tokens and leaves the end's out, as in vLLM.
    """

    def __init__(
        self, num_prompt_tokens: int, width: int, max_tokens: int, ends: Collection[int], length_penalty: float
    ) -> None:
        self.live = [Beam()]
        self.num_offered = 2 * width  # tokens of each beam
        self._completed: list[Beam] = []
        self._num_prompt_tokens = num_prompt_tokens
        self._width = width
        self._max_tokens = max_tokens
        self._ends = frozenset(ends)
        self._power = length_penalty

    @property
    def finished(self) -> bool:
        """True if no live beam may grow, or none could still become one of the best."""
        if not self.live or len(self.live[0].token_ids) >= self._max_tokens:
            return True
        if len(self._completed) < self._width:
            return False
        return self._score(self._completed[-1]) >= max(map(self._bound, self.live))

    def advance(self, offers: Sequence[TokenLogprob]) -> None:
        """Extend the live beams by a token: `offers[i]` has the likeliest next ones of `live[i]`."""
        going: list[tuple[float, Beam, int, TokenLogprob]] = []
        for beam, offer in zip(self.live, offers, strict=True):
            for rank, (token_id, logprob) in enumerate(offer.top[: self.num_offered], 1):
                if logprob == float("-inf"):
                    break  # what follows can't be drawn
                entry = TokenLogprob(token_id, logprob, rank, offer.top)
                if token_id in self._ends:
                    self._completed.append(_extended(beam, entry, ended=True))
                else:
                    going.append((beam.logprob + logprob, beam, token_id, entry))
        self._completed = heapq.nlargest(self._width, self._completed, key=self._score)  # of equals the first
        best = heapq.nsmallest(self._width, going, key=lambda candidate: -candidate[0])  # of equals the first
        self.live = [_extended(beam, entry, ended=False) for _, beam, _, entry in best]

    def best(self) -> list[Beam]:
        """The best answers so far, the best first: as many as the search is wide, or all that there are."""
        return sorted((*self._completed, *self.live), key=self._score, reverse=True)[: self._width]

    def _score(self, beam: Beam) -> float:
        return self._normalized(beam.logprob, len(beam.token_ids) - beam.ended)

    def _bound(self, beam: Beam) -> float:
        """The most that an answer which begins with `beam` can reach: no token's log-probability is above 0."""
        return max(self._normalized(beam.logprob, length) for length in (len(beam.token_ids), self._max_tokens))

    def _normalized(self, logprob: float, length: int) -> float:
        return float(logprob / (self._num_prompt_tokens + length) ** self._power)


def _extended(beam: Beam, entry: TokenLogprob, *, ended: bool) -> Beam:
    return Beam((*beam.token_ids, entry.token_id), (*beam.entries, entry), beam.logprob + entry.logprob, ended)
