"""One choice's text as its client sees it: detokenized, cut at the first stop string, held back where one may begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo_engine.text.detokenizer import Detokenizer
from octavo_engine.text.stop_strings import StopSearch, StopStrings
from octavo_engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The text that some tokens added. The first `num_tokens` of them count: those after a stop string do not."""

    text: str
    num_tokens: int
    stop: str | None = None  # the stop string that ended the text
    offsets: tuple[int, ...] = ()  # of each counted token: where in the whole text its own begins, in characters


def joined_deltas(deltas: Sequence[TextDelta]) -> TextDelta:
    """Deltas that follow each other as one."""
    if len(deltas) == 1:
        return deltas[0]
    return TextDelta(
        "".join(delta.text for delta in deltas),
        sum(delta.num_tokens for delta in deltas),
        deltas[-1].stop,
        tuple(offset for delta in deltas for offset in delta.offsets),
    )


class TextStream:
    """The texts of all deltas, one after the other, are the choice's text.

    Stop strings that end within the first `min_tokens` tokens do not count, as in vLLM.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int] = (),
        *,
        stop: StopStrings | None = None,
        include_stop_str_in_output: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
        kept_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """`kept_tokens`: special tokens that are not skipped."""
        self._detokenizer = Detokenizer(
            tokenizer, prompt_token_ids, skip_special_tokens=skip_special_tokens, kept_tokens=kept_tokens
        )
        self._stop = StopSearch(stop) if stop is not None else None
        self._never_included = stop.never_included if stop is not None else frozenset()
        self._include_stop = include_stop_str_in_output
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""  # characters that may still become part of a stop string

    def add(self, token_ids: Sequence[int], *, finished: bool = False, ended_by_token: bool = False) -> TextDelta:
        """The next tokens. `finished`: these are the last, so nothing is held back any longer.

        `ended_by_token`: the last one is the EOS or stop token that ended the sequence; it counts as a token, but its
        text is left out unless stop strings are included.
        """
        pending = self._held
        offsets = []
        last = len(token_ids) - 1
        for position, token_id in enumerate(token_ids):
            offsets.append(self._detokenizer.begin(token_id))
            if ended_by_token and position == last and not self._include_stop:
                text = ""
            else:
                text = self._detokenizer.add(token_id)
            self._num_tokens += 1
            if finished and position == last:
                text += self._detokenizer.flush()
            found = self._find(text)
            if found is not None:
                string, end = found
                keep = len(pending) + end - (0 if self._includes(string) else len(string))
                self._held = ""
                return TextDelta((pending + text)[:keep], position + 1, string, tuple(offsets))
            pending += text
        if finished and not token_ids:
            pending += self._detokenizer.flush()
        held = 0 if finished or self._stop is None else self._stop.held
        cut = len(pending) - held
        self._held = pending[cut:]
        return TextDelta(pending[:cut], len(token_ids), None, tuple(offsets))

    def _includes(self, stop: str) -> bool:
        return self._include_stop and stop not in self._never_included

    def _find(self, text: str) -> tuple[str, int] | None:
        if self._stop is None or not text:
            return None
        return self._stop.find(text, ignore=self._num_tokens <= self._min_tokens)
