"""Detects that an answer repeats itself: its last tokens are the same pattern several times over."""

from __future__ import annotations

from collections.abc import Sequence

from octavo_engine.sampling_params import RepetitionDetection


class RepetitionWatch:
    """Follows one answer. For each size of a pattern it counts the last tokens that equal the one a pattern earlier, so a
    token takes one comparison a size, however often a pattern must be repeated.
    """

    def __init__(self, asked: RepetitionDetection) -> None:
        self._sizes = range(asked.min_pattern_size, asked.max_pattern_size + 1)
        self._more = asked.min_count - 1  # repetitions beyond the first
        self._runs = [0] * len(self._sizes)

    def note(self, token_ids: Sequence[int], num_output_tokens: int) -> bool:
        """Follow the last of `token_ids`, of which `num_output_tokens` are the answer; True if it completes a repetition."""
        last = token_ids[-1]
        before = len(token_ids) - 1
        sizes = self._sizes[: max(0, num_output_tokens - self._sizes.start)]
        self._runs[: len(sizes)] = [
            run + 1 if token_ids[before - size] == last else 0 for size, run in zip(sizes, self._runs, strict=False)
        ]
        return any(run >= size * self._more for size, run in zip(sizes, self._runs, strict=False))
