"""The text of an answer as it comes, for readers that stop where more of it is needed.

A reader is a generator: it yields when it has read all there is, and goes on with what came since. So one piece of code
reads whole answers and streams, however they are cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Reader: TypeAlias = Generator[None, None, T]
Emit: TypeAlias = Callable[[str], None]

SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]*")


class EndOfTextError(Exception):
    """The answer ends where a reader needs more of it."""


class Literals:
    """Texts that are looked for together: the first to begin wins, of several that begin together the longest."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted(set(texts), key=lambda text: (-len(text), text)))
        self._found = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")
        self._beginnings = frozenset(text[:end] for text in self.texts for end in range(1, len(text)))
        self._longest = max(map(len, self.texts), default=1) - 1
        self._first = frozenset(text[0] for text in self.texts)

    def find(self, text: str, at: int, *, ended: bool) -> tuple[int, str | None]:
        """The place from `at` on where the first of them begins, and which; None: none does, and up to there none can begin."""
        match = self._found.search(text, at)
        if ended:
            return (len(text), None) if match is None else (match.start(), match[0])
        held = self._partial(text, at)
        if match is None or held <= match.start():
            return held, None
        return match.start(), match[0]

    def _partial(self, text: str, at: int) -> int:
        """The first place from which the rest of `text` is the beginning of a literal."""
        start = max(at, len(text) - self._longest)
        tail = text[start:]
        if self._first.isdisjoint(tail):
            return len(text)
        for i in range(len(tail)):
            if tail[i] in self._first and tail[i:] in self._beginnings:
                return start + i
        return len(text)


@lru_cache(maxsize=512)
def literals(*texts: str) -> Literals:
    """The `Literals` of `texts`, made once: those of formats, of which there are few."""
    return Literals(texts)


class AnswerInput:
    """Text that has come and was not read yet. `kept` collects what is read while it may have to be taken back."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self.kept: list[str] | None = None

    def add(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        self._ended = True

    def more(self) -> Reader[bool]:
        """Wait for more text; False at the end of the answer."""
        if self._ended:
            return False
        size = len(self._text) - self._at
        while not self._ended and len(self._text) - self._at == size:
            yield
        return len(self._text) - self._at > size

    def peek(self) -> Reader[str]:
        """The next character; empty at the end of the answer."""
        if self._at == len(self._text):
            yield from self.more()
        return self._text[self._at : self._at + 1]

    def need(self) -> Reader[str]:
        """The next character, which is not taken. Raises EndOfTextError."""
        character = yield from self.peek()
        if not character:
            raise EndOfTextError
        return character

    def take(self, count: int) -> str:
        """The next `count` characters, all of which are there."""
        text = self._text[self._at : self._at + count]
        self._at += count
        if self.kept is not None:
            self.kept.append(text)
        return text

    def skip_space(self) -> Reader[None]:
        """Skip white space."""
        while True:
            match = _SPACES.match(self._text, self._at)
            assert match is not None
            if match.end() > self._at:
                self.take(match.end() - self._at)
            if self._at < len(self._text) or not (yield from self.more()):
                return

    def starts_with(self, literals: Literals) -> Reader[str | None]:
        """The longest of `literals` that comes next, which is not taken."""
        while True:
            for text in literals.texts:
                if self._text.startswith(text, self._at):
                    return text
                if (
                    not self._ended
                    and len(self._text) - self._at < len(text)
                    and text.startswith(self._text[self._at :])
                ):
                    break  # it may still come
            else:
                return None
            yield from self.more()

    def accept(self, literals: Literals) -> Reader[str | None]:
        """Skip white space, then take the longest of `literals` that comes next; None: none of them does."""
        yield from self.skip_space()
        found = yield from self.starts_with(literals)
        if found is not None:
            self.take(len(found))
        return found

    def run(self, pattern: re.Pattern[str], emit: Emit) -> Reader[None]:
        """Emit all characters up to the first that `pattern`, a class of characters, does not match, or the end."""
        while True:
            match = pattern.match(self._text, self._at)
            if match is not None and match.end() > self._at:
                emit(self.take(match.end() - self._at))
            if self._at < len(self._text) or not (yield from self.more()):
                return

    def until(self, literals: Literals, emit: Emit, *, take: bool = True) -> Reader[str | None]:
        """Emit the text before the first of `literals`, and take that; None: the answer ended first.

        Only what may be the beginning of a literal is held back.
        """
        while True:
            at, found = literals.find(self._text, self._at, ended=self._ended)
            if at > self._at:
                emit(self.take(at - self._at))
            if found is not None:
                if take:
                    self.take(len(found))
                return found
            if self._ended:
                return None
            yield from self.more()
