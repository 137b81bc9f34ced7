"""The number of tokens of a step, so that it lasts about as long as a stream may wait for another request's prefill.

Adapts to measured steps, whatever requests are in them. Its only effect is where prompts are cut: the tokens drawn for
a request depend neither on its chunks nor on its batch (`docs/decisions/0005-sampling.md`).
"""

from __future__ import annotations

FIRST_TOKENS = 64  # of a step before any was measured: a slow machine's first one is no longer than it must be
FIRST_SCORED = 16  # the same of tokens whose log-probabilities are wanted: each takes a row of the whole vocabulary
AIM = 0.45  # of the longest wait of a stream: a token that ends no character is only sent with the next step's
STEPS_UNTIL_LONGER = 1024  # that have fitted, after one that did not fit into memory
LEAST_SHARE = 4  # prefills keep one token in LEAST_SHARE, however many the decodes take
ALONE = 4  # times as long as others may a prefill take that delays no other request: weights are read less often


class StepPace:
    """The number of tokens that fit a step's time, adapted after each step that prefilled.

    A step that took too long lowers it at once, so that one slow step is not followed by another. It grows to what a
    step has shown, at most twofold at a time: neither a step of few tokens nor one disturbed step weighs for long.
    Prefills get at least a block of `block_size` tokens, else a machine on which nothing fits would never end one.

    Prompt tokens with log-probabilities take longer, since each has a row of logits: they have a limit of their own, and
    `scored_cost` is the part of a budget that one of them takes.

    `max_seconds` 0: every step may take `max_tokens`.
    """

    def __init__(self, max_seconds: float, *, max_tokens: int, block_size: int) -> None:
        self._aim = max_seconds * AIM
        self._most = self._max_tokens = max_tokens
        self._fitted = 0  # steps since one ran out of memory
        self._block_size = block_size
        self._limit = min(max_tokens, max(FIRST_TOKENS, block_size))
        self._scored_limit = min(max_tokens, FIRST_SCORED)

    @property
    def scored_cost(self) -> float:
        """The number of tokens that take as long as one prompt token with log-probabilities; at least 1."""
        return max(1.0, self._limit / self._scored_limit) if self._aim else 1.0

    def tokens(self, num_running: int, *, alone: bool) -> int:
        """The budget of the next step, in which each of `num_running` sequences may need a token.

        `alone`: there is one request in total.
        """
        if not self._aim:
            return self._max_tokens
        prefill = max(self._limit - num_running, self._limit // LEAST_SHARE, self._block_size)
        return min(self._max_tokens, num_running + prefill * (ALONE if alone else 1))

    def note_step(self, num_tokens: int, num_sequences: int, seconds: float, num_scored: int = 0) -> None:
        """Learn from a step of `num_tokens` of `num_sequences` in `seconds`; decodes alone are ignored.

        `num_scored` of the tokens were prompt tokens with log-probabilities.
        """
        self._fitted += 1
        if self._max_tokens < self._most and self._fitted >= STEPS_UNTIL_LONGER:
            self._max_tokens, self._fitted = min(2 * self._max_tokens, self._most), 0
        if not self._aim or num_tokens == num_sequences:
            return
        if num_scored:
            others = int((num_tokens - num_scored) / self.scored_cost)
            limit = self._adapted(self._scored_limit, num_scored + others, seconds)
            self._scored_limit = max(limit, 1)
        else:
            self._limit = max(self._adapted(self._limit, num_tokens, seconds), self._block_size)

    def _adapted(self, limit: int, num_tokens: int, seconds: float) -> int:
        fitting = int(num_tokens * self._aim / max(seconds, 1e-6))
        if num_tokens >= limit or seconds > self._aim:
            limit = min(fitting, 2 * limit)
        else:  # a step of few tokens shows what it shows, and no limit of larger ones
            limit = max(limit, min(fitting, 2 * num_tokens))
        return min(limit, self._max_tokens)

    def shorten(self, num_tokens: int) -> int:
        """A step of `num_tokens` ran out of memory: the most that the next ones may take, half of it."""
        self._max_tokens = max(min(num_tokens // 2, self._max_tokens), self._block_size)
        self._limit = min(self._limit, self._max_tokens)
        self._scored_limit = min(self._scored_limit, self._max_tokens)
        self._fitted = 0
        return self._max_tokens
