"""Log-probabilities in the shapes that completions and chats have for them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo_engine.messages import TokenLogprob
from octavo_engine.server.answer.responses import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    TokenLogprobs,
    TopLogprob,
)
from octavo_engine.text.tokenizer import Tokenizer

_encoder = msgspec.json.Encoder()
LOWEST = -9999.0  # JSON has no minus infinity; vLLM writes this in its place


class LogprobFormat:
    """The spelling of tokens for one request: as text, or as `token_id:123`."""

    def __init__(self, tokenizer: Tokenizer, num_top: int, *, as_token_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._as_token_ids = as_token_ids

    def completion(
        self, entries: Sequence[TokenLogprob | None], token_ids: Sequence[int], offsets: Sequence[int], shift: int
    ) -> CompletionLogprobs:
        """`token_ids` are the tokens that `entries` are of, `offsets` where they begin; `shift` is added to those."""
        result = CompletionLogprobs([shift + offset for offset in offsets], [], [], [])
        for token_id, entry in zip(token_ids, entries, strict=True):
            result.tokens.append(self._spelled(token_id))
            if entry is None:
                result.token_logprobs.append(None)
                result.top_logprobs.append(None)
                continue
            result.token_logprobs.append(max(entry.logprob, LOWEST))
            result.top_logprobs.append(_raw(self._by_text(token_id, entry)))
        return result

    def _by_text(self, token_id: int, entry: TokenLogprob) -> dict[str, float]:
        """The token itself, then the best. A text that several tokens have, such as the parts of an emoji, stands for
        the first of them; the others are spelled by their ids, so that none hides another's number.
        """
        top = {self._spelled(token_id): max(entry.logprob, LOWEST)}
        for index, logprob in entry.top[: self._num_top]:
            if index != token_id:
                text = self._spelled(index)
                top[text if text not in top else _by_id(index)] = max(logprob, LOWEST)
        return top

    def chat(self, entries: Sequence[TokenLogprob]) -> ChatLogprobs:
        content = []
        for entry in entries:
            top = [
                TopLogprob(self._spelled(index), max(logprob, LOWEST), list(self._tokenizer.token_bytes(index)))
                for index, logprob in entry.top[: self._num_top]
            ]
            data = list(self._tokenizer.token_bytes(entry.token_id))
            content.append(_raw(TokenLogprobs(self._spelled(entry.token_id), max(entry.logprob, LOWEST), data, top)))
        return ChatLogprobs(content)

    def prompt(self, entries: Sequence[TokenLogprob | None]) -> list[msgspec.Raw | None]:
        """vLLM's `prompt_logprobs`: for each token of the prompt, by token id; null for the first."""
        result: list[msgspec.Raw | None] = []
        for entry in entries:
            if entry is None:
                result.append(None)
                continue
            by_id = {
                str(index): PromptLogprob(max(logprob, LOWEST), rank, self._tokenizer.token_text(index))
                for rank, (index, logprob) in enumerate(entry.top, 1)
            }
            own = PromptLogprob(max(entry.logprob, LOWEST), entry.rank, self._tokenizer.token_text(entry.token_id))
            by_id.pop(str(entry.token_id), None)
            result.append(_raw({str(entry.token_id): own, **by_id}))
        return result

    def _spelled(self, token_id: int) -> str:
        return _by_id(token_id) if self._as_token_ids else self._tokenizer.token_text(token_id)


def _raw(entry: msgspec.Struct | dict[str, float] | dict[str, PromptLogprob]) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(entry))


def _by_id(token_id: int) -> str:
    return f"token_id:{token_id}"
