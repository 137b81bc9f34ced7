"""Reads a value as models write it, and copies it as JSON while it comes.

Takes JSON and, in the same places, what models write for it: Python's spelling (single quotes, `True`, `None`, tuples,
trailing commas), keys without quotes, line breaks within strings, strings between texts of their own. What is copied is
JSON in the spacing of Python's `json.dumps`, whatever was written, and is never read back.
"""

from __future__ import annotations

import json
import re

from octavo_engine.text.answer_input import AnswerInput, Emit, EndOfTextError, Literals, Reader

CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
CLOSING = {"{": "}", "[": "]", "(": ")"}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[^\s,:=\[\]{}()\"'<]+")
_PLAIN = {quote: re.compile(rf"[^{quote}\\]+") for quote in "\"'"}
_HEX = re.compile(r"[0-9a-fA-F]+")
_ESCAPES = dict(zip('"\\/bfnrt', ('\\"', "\\\\", "/", "\\b", "\\f", "\\n", "\\r", "\\t"), strict=True))
_ESCAPES |= {"'": "'", "\n": "", "a": "\\u0007", "v": "\\u000b", "0": "\\u0000"}  # Python's
_DIGITS = {"u": 4, "x": 2, "U": 8}


class MalformedError(Exception):
    """Text that is not what the format has in its place."""


def escaped(text: str) -> str:
    """`text` as it stands between the quotation marks of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class ValueReader:
    """Reads values from `source`. `quotes`: a text that also stands around strings, in which nothing is escaped."""

    def __init__(self, source: AnswerInput, quotes: str = "") -> None:
        self._source = source
        self._quotes = Literals([quotes]) if quotes else None

    def value(self, emit: Emit, *, call: bool = False) -> Reader[None]:
        """Copy one value. `call`: the arguments of a call in Python's spelling, from its parenthesis on, as an object.

        Raises:
            MalformedError: it is no value.
            EndOfTextError: the answer ends within it.
        """
        source = self._source
        stack: list[tuple[str, bool]] = []  # what closes each open value, and whether it has keys
        state, separator = "value", ""
        colons = ":="
        while True:
            yield from source.skip_space()
            character = yield from source.need()
            if stack and character == stack[-1][0] and state in {"key", "comma", "element"}:
                source.take(1)
                emit("}" if stack.pop()[1] else "]")
                state = "comma"
            elif state == "key":
                emit(separator)
                yield from self._key(emit)
                state = "colon"
            elif state == "colon":
                if character not in colons:
                    raise MalformedError
                source.take(1)
                emit(": ")
                state, separator = "value", ""
            elif state == "comma":
                if character != ",":
                    raise MalformedError
                source.take(1)
                state, separator = "key" if stack[-1][1] else "element", ", "
            elif character in CLOSING:
                source.take(1)
                keys = character == "{" or (call and not stack)
                if call and not stack and character != "(":
                    raise MalformedError
                emit(separator + ("{" if keys else "["))
                stack.append((CLOSING[character], keys))
                state, separator = "key" if keys else "element", ""
            else:
                emit(separator)
                yield from self._scalar(character, emit)
                state = "comma"
            if not stack:
                return

    def string(self, emit: Emit) -> Reader[bool]:
        """Copy a string with its quotation marks; False, and nothing is read, if none comes."""
        source = self._source
        yield from source.skip_space()
        if self._quotes is not None and (yield from source.starts_with(self._quotes)) is not None:
            yield from source.accept(self._quotes)
            emit('"')
            if (yield from source.until(self._quotes, lambda text: emit(escaped(text)))) is None:
                raise EndOfTextError
            emit('"')
            return True
        quote = yield from source.need()
        if quote not in _PLAIN:
            return False
        source.take(1)
        emit('"')
        while True:
            yield from source.run(_PLAIN[quote], lambda text: emit(escaped(text)))
            if source.take(len((yield from source.need()))) == quote:
                emit('"')
                return True
            yield from self._escape(emit)

    def _key(self, emit: Emit) -> Reader[None]:
        if not (yield from self.string(emit)):
            emit(f'"{escaped((yield from self._word()))}"')

    def _scalar(self, character: str, emit: Emit) -> Reader[None]:
        if (yield from self.string(emit)):
            return
        if character in ":=,":
            raise MalformedError
        word = yield from self._word()
        number = _NUMBER.fullmatch(word)
        emit(word if number is not None else CONSTANTS.get(word) or f'"{escaped(word)}"')

    def _word(self) -> Reader[str]:
        pieces: list[str] = []
        yield from self._source.run(_WORD, pieces.append)
        if not pieces:
            raise MalformedError
        return "".join(pieces)

    def _escape(self, emit: Emit) -> Reader[None]:
        """Copy what follows a backslash. One that JSON and Python lack stands for itself, as in a regular expression."""
        source = self._source
        character = yield from source.need()
        if character in _ESCAPES:
            source.take(1)
            emit(_ESCAPES[character])
            return
        if character not in _DIGITS:
            emit("\\\\")
            return
        source.take(1)
        digits = ""
        while len(digits) < _DIGITS[character] and _HEX.match((yield from source.need())):
            digits += source.take(1)
        if len(digits) < _DIGITS[character] or int(digits, 16) > 0x10FFFF:
            emit(f"\\\\{character}{digits}")
        elif len(digits) == 8:
            emit(escaped(chr(int(digits, 16))) if not 0xD800 <= int(digits, 16) < 0xE000 else f"\\u{digits[4:]}")
        else:
            emit(f"\\u{digits.zfill(4)}")


def as_json(text: str) -> str | None:
    """All of `text`, one value in a model's spelling, as JSON; None if it is no value."""
    source = AnswerInput()
    source.add(text)
    source.end()
    pieces: list[str] = []
    try:
        for _ in ValueReader(source).value(pieces.append):
            pass
        for _ in source.skip_space():
            pass
    except (MalformedError, EndOfTextError):
        return None
    left = next_character(source)
    return None if left else "".join(pieces)


def next_character(source: AnswerInput) -> str:
    """The next character of a text that has ended."""
    reader = source.peek()
    try:
        while True:
            next(reader)
    except StopIteration as stop:
        result: str = stop.value
        return result
