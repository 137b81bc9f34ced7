"""The budget of one answer's reasoning: follows its tokens, and names those that must end it once the budget is used up.

What ended once is not followed any more, so that no later step has to wait for the tokens before it.
Delimiters are looked for in the bytes of tokens, since a tokenizer may join them with what stands beside them. The forced
tokens are drawn through the mask of a grammar (`engine.constraints`).
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo_engine.sampling_params import ThinkingBudget


class Thinking:
    """Counter of what one answer's reasoning has used of its budget. `note` gets each token of the answer, in order."""

    def __init__(self, budget: ThinkingBudget, vocabulary: Sequence[bytes]) -> None:
        """`vocabulary[i]` are the bytes that token i adds to a text."""
        self._budget = budget
        self._vocabulary = vocabulary
        self._longest = max(map(len, (*budget.open, *budget.close)))
        self._tail = b""  # of the answer, as far as a delimiter may begin in it
        self._count = 0  # tokens of reasoning
        self._begun = budget.begun
        self._ended = False
        self._num_forced: int | None = None  # of the tokens that end it; None: nothing is forced now
        self._force_if_due()

    @property
    def forced(self) -> int | None:
        """The token that must come next; None if any may."""
        return None if self._num_forced is None else self._budget.forced[self._num_forced]

    def may_force(self, num_pending: int) -> bool:
        """True if the token behind `num_pending` ones that are not known yet may have to be a forced one."""
        if self._num_forced is not None:
            return True
        if self._ended:
            return False
        # The last pending token may open the reasoning, or complete what looked like the beginning of its end.
        return (self._begun or num_pending > 0) and self._count + num_pending >= self._budget.max_tokens

    def note(self, token: int) -> None:
        """Follow a token of the answer."""
        if self._ended:
            return
        if self._num_forced is not None:
            self._note_forced(token)
            return
        data = self._vocabulary[token] if token < len(self._vocabulary) else b""
        self._tail = (self._tail + data)[-(self._longest + len(data)) :]
        if self._holds(self._budget.close if self._begun else self._budget.open):
            self._begun, self._ended = not self._begun, self._begun
            self._tail = b""
        elif self._begun:
            self._count += 1
        self._force_if_due()

    def _note_forced(self, token: int) -> None:
        assert self._num_forced is not None
        expected = self.forced
        self._num_forced += 1
        if token != expected or self._num_forced == len(self._budget.forced):
            # Where it did not come, it is not allowed to: a grammar has ended the reasoning already.
            self._begun, self._num_forced, self._ended = False, None, True

    def _force_if_due(self) -> None:
        """Begin to force the end; not within a delimiter that has begun, which ends it just as well."""
        if self._begun and self._count >= self._budget.max_tokens and not self._closing():
            self._num_forced = 0

    def _holds(self, delimiters: Sequence[bytes]) -> bool:
        return any(delimiter in self._tail for delimiter in delimiters)

    def _closing(self) -> bool:
        """True if the answer ends in the beginning of a delimiter."""
        return any(
            self._tail.endswith(delimiter[:length])
            for delimiter in self._budget.close
            for length in range(1, min(len(delimiter), len(self._tail) + 1))
        )
