"""Token ids to text as they come, one at a time.

Works on the bytes of tokens, so each token costs the same however long the text has grown; a character whose bytes
are spread over several tokens comes with the last of them. Neither kind of vocabulary puts spaces between tokens by
itself, so `spaces_between_special_tokens` changes nothing here, as in vLLM with a fast tokenizer.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from octavo_engine.text.tokenizer import Tokenizer

_utf8 = codecs.getincrementaldecoder("utf-8")
_LONGEST_CHARACTER = 4  # bytes of UTF-8


class Detokenizer:
    """The text of one sequence. All that `add` returned plus what `flush` returns is the decoded text.

    `prompt_token_ids` are not part of it, but a character that they leave incomplete is completed, and a
    SentencePiece tokenizer's leading space is dropped only at the start of a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        kept_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """`kept_tokens` are not skipped."""
        self._token_bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_token_ids - kept_tokens if skip_special_tokens else frozenset()
        self._decoder = _utf8(errors="replace")
        self._drop_space = tokenizer.strips_space
        self.offset = 0  # characters returned so far
        tail = b""
        for index in reversed(prompt_token_ids):
            if index in self._skipped:
                continue
            tail = self._token_bytes(index) + tail
            if len(tail) >= _LONGEST_CHARACTER:
                break
        if tail:
            self._drop_space = False
            self._decoder.decode(tail)

    def begin(self, token_id: int) -> int:
        """The offset of the text of `token_id` if it comes next, in characters.

        A token that continues a character begins with it; one that leaves a character incomplete begins after the
        U+FFFD that stands for it.
        """
        pending = self._decoder.getstate()[0]
        if pending and token_id not in self._skipped:
            both = pending + self._token_bytes(token_id)[:1]
            try:
                both.decode()
            except UnicodeDecodeError as error:
                if error.end < len(both):  # otherwise it is still incomplete
                    return self.offset + len(pending.decode("utf-8", "replace"))
        return self.offset

    def add(self, token_id: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        if token_id in self._skipped:
            return ""
        return self._returned(self._decoder.decode(self._token_bytes(token_id)))

    def flush(self) -> str:
        """End the text: U+FFFD if its last character is incomplete, else nothing."""
        return self._returned(self._decoder.decode(b"", final=True))

    def _returned(self, text: str) -> str:
        if self._drop_space and text:
            self._drop_space = False
            text = text.removeprefix(" ")
        self.offset += len(text)
        return text


def decoded_prompt(tokenizer: Tokenizer, token_ids: Sequence[int], *, continued: bool) -> str:
    """The text of a prompt; if it is `continued`, a character that its last tokens leave incomplete is the answer's."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    text = "".join([detokenizer.add(token_id) for token_id in token_ids])
    return text if continued else text + detokenizer.flush()


def token_offsets(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """The offset in `text`, in characters, of each of `token_ids`, which are its tokens.

    Special tokens, and SentencePiece's space after them, have no length in the text: the tokenizer added them.
    """
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    offsets, end = [], 0
    for token_id in token_ids:
        offset = end + detokenizer.begin(token_id) - detokenizer.offset
        offsets.append(min(offset, len(text)))
        if token_id in tokenizer.special_token_ids and not text.startswith(tokenizer.token_text(token_id), offset):
            continue
        added = detokenizer.add(token_id)
        if added.startswith(" ") and not text.startswith(" ", end):
            added = added[1:]
        end += len(added)
    return offsets
