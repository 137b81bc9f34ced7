"""Reads one tool call, part by part, as its format describes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from octavo_engine.text.answer_events import AnswerEvent, CallArguments, CallBegun, CallEnded
from octavo_engine.text.answer_format import Arguments, Calls, Maybe, Name, Object, Parameters, Part, Skip
from octavo_engine.text.answer_input import AnswerInput, Emit, EndOfTextError, Literals, Reader, literals
from octavo_engine.text.tool_schemas import ToolSchemas, as_typed
from octavo_engine.text.value_reader import MalformedError, ValueReader, as_json, escaped

MOST_HEADER = 512  # characters of a name, of a parameter's key, or of what is skipped
MOST_NESTED = 3  # objects around name and arguments
_NAME = re.compile(r"[\w.\-/:$@]+")
_NUMBER = re.compile(r":\d+$")
_COLON, _COMMA, _OPEN, _CLOSE = map(literals, ":,{}")


class CallReader:
    """Reads calls from `source` into events. `new_id` makes a call's id from its number and name."""

    def __init__(
        self,
        source: AnswerInput,
        calls: Calls,
        tools: ToolSchemas,
        new_id: Callable[[int, str], str],
        emit: Callable[[AnswerEvent], None],
    ) -> None:
        self._source = source
        self._calls = calls
        self._tools = tools
        self._new_id = new_id
        self._emit = emit
        self.count = 0  # calls begun
        self._closers = literals(*calls.close, *(form[-1] for form in calls.call if isinstance(form[-1], str)))
        quotes = next((p.quotes for form in calls.call for p in form if isinstance(p, Arguments) and p.quotes), "")
        self._values = ValueReader(source, quotes)
        self._open = False  # whether a call has begun and not ended
        self._whole = False  # whether its arguments are
        self._early: list[str] = []  # arguments that came before the name
        self._name = ""
        self._only_known = False

    def call(self, *, only_known: bool) -> Reader[bool]:
        """Read one call; False if it turned out to be none: the source has kept what was read.

        Arguments that are malformed are passed on as they are, up to what closes the call or the answer's end. With
        `only_known`, what names a tool that the request lacks is no call.
        """
        self._open = self._whole = False
        self._early = []
        self._only_known = only_known
        malformed = False
        try:
            yield from self._parts((yield from self._form()))
        except MalformedError:
            malformed = True
        except EndOfTextError:
            pass
        if not self._open:
            return False
        if malformed and not self._whole:
            yield from self._source.until(self._closers, self._arguments)
        self._emit(CallEnded(self.count - 1, complete=self._whole))
        return True

    def begins(self, form: Sequence[Part]) -> str:
        """The text that a call of this form begins with; empty if that is not known."""
        first = form[0]
        return first if isinstance(first, str) else "{" if isinstance(first, Object) else ""

    def _form(self) -> Reader[Sequence[Part]]:
        forms = self._calls.call
        if len(forms) == 1:
            return forms[0]
        found = yield from self._peeked(literals(*filter(None, map(self.begins, forms))))
        for form in forms:
            if self.begins(form) in {found, ""}:
                return form
        raise MalformedError

    def _peeked(self, literals: Literals) -> Reader[str | None]:
        yield from self._source.skip_space()
        return (yield from self._source.starts_with(literals))

    def _parts(self, form: Sequence[Part]) -> Reader[None]:
        source = self._source
        for i, part in enumerate(form):
            match part:
                case str():
                    if (yield from source.accept(literals(part))) is None:
                        raise MalformedError
                case Maybe(text=text):
                    yield from source.accept(literals(text))
                case Skip():
                    following = form[i + 1]
                    assert isinstance(following, str)
                    yield from self._header(literals(following))
                case Name():
                    yield from self._read_name(part)
                case Arguments(style="python"):
                    yield from self._values.value(self._arguments, call=True)
                    self._whole = True
                case Arguments():
                    yield from self._argument_value()
                case Object():
                    yield from self._object(part, MOST_NESTED)
                case Parameters():
                    yield from self._parameters(part)
        if not self._open:
            raise MalformedError
        if not self._whole:
            self._arguments("{}")
            self._whole = True

    def _begin(self, name: str, id_: str = "") -> None:
        """Begin the call `name`. Raises MalformedError for what is no name."""
        if not name.isprintable() or not 0 < len(name) <= MOST_HEADER or (self._only_known and name not in self._tools):
            raise MalformedError
        self._name, self._open, self._source.kept = name, True, None
        self._emit(CallBegun(self.count, id_ or self._new_id(self.count, name), name))
        self.count += 1
        for text in self._early:
            self._arguments(text)

    def _arguments(self, text: str) -> None:
        if self._open:
            self._emit(CallArguments(self.count - 1, text))
        else:
            self._early.append(text)

    def _header(self, end: Literals, *, take: bool = False) -> Reader[str]:
        """Read what comes before one of `end`. Raises MalformedError if that is too much."""
        pieces: list[str] = []

        def collect(text: str) -> None:
            pieces.append(text)
            if sum(map(len, pieces)) > MOST_HEADER:
                raise MalformedError

        if (yield from self._source.until(end, collect, take=take)) is None:
            raise EndOfTextError
        return "".join(pieces)

    def _read_name(self, part: Name) -> Reader[None]:
        pieces: list[str] = []
        yield from self._source.skip_space()
        yield from self._source.run(_NAME, pieces.append)
        yield from self._source.need()  # at the answer's end, more of the name may be missing
        whole = "".join(pieces)
        name = _NUMBER.sub("", whole) if part.numbered else whole
        self._begin(name.removeprefix(part.prefix), whole if part.numbered and name != whole else "")

    def _argument_value(self) -> Reader[None]:
        """The arguments: an object, the same as a string of JSON, or null for none."""
        source = self._source
        yield from source.skip_space()
        character = yield from source.need()
        if character == "{":
            yield from self._values.value(self._arguments)
        else:
            pieces: list[str] = []
            yield from self._values.value(pieces.append)
            text = "".join(pieces)
            if text.startswith('"'):
                inner = json.loads(text)
                text = as_json(inner) or ('""' if not inner.strip() else text)
            self._arguments("{}" if text in {'""', "null"} else text)
        self._whole = True

    def _object(self, part: Object, depth: int) -> Reader[None]:
        source = self._source
        if (yield from source.accept(_OPEN)) is None:
            raise MalformedError
        while (yield from source.accept(_CLOSE)) is None:
            pieces: list[str] = []
            if not (yield from self._values.string(pieces.append)):
                raise MalformedError
            key = json.loads("".join(pieces))
            if (yield from source.accept(_COLON)) is None:
                raise MalformedError
            yield from self._member(part, key, depth)
            if (yield from source.accept(_COMMA)) is None and (yield from self._peeked(_CLOSE)) is None:
                raise MalformedError

    def _member(self, part: Object, key: str, depth: int) -> Reader[None]:
        yield from self._source.skip_space()
        character = yield from self._source.need()
        if part.keyed and not self._open:
            self._begin(key)
            yield from self._argument_value()
        elif key in part.name and not self._open and character in "\"'":
            pieces: list[str] = []
            yield from self._values.string(pieces.append)
            self._begin(json.loads("".join(pieces)))
        elif key in part.name and not self._open and character == "{" and depth:
            yield from self._object(part, depth - 1)
        elif key in part.arguments and not self._whole:
            yield from self._argument_value()
        elif self._only_known and not self._open and key not in {"type", "id", "index"}:
            raise MalformedError  # an answer in JSON, not a call: it need not be held back
        else:
            yield from self._values.value(_nowhere)

    def _parameters(self, part: Parameters) -> Reader[None]:
        source, opening = self._source, literals(part.open)
        ends = literals(part.close, *part.ends)
        self._arguments("{")
        separator = ""
        while (yield from source.accept(opening)) is not None:
            key = (yield from self._header(literals(*part.key_end), take=True)).strip()
            if part.value_begin and (yield from source.accept(literals(part.value_begin))) is None:
                raise MalformedError
            self._arguments(f'{separator}"{escaped(key)}": ')
            separator = ", "
            types = self._tools.types(self._name, key)
            if types == ("string",):
                yield from self._text_value(part, ends)
            else:
                yield from self._typed_value(part, ends, types)
        self._arguments("}")
        self._whole = True

    def _text_value(self, part: Parameters, ends: Literals) -> Reader[None]:
        """A string, passed on as it comes."""
        self._arguments('"')
        text = TrimmedText(lambda piece: self._arguments(escaped(piece)), newlines=part.newlines)
        yield from self._value_end(part, ends, text.add)
        self._arguments('"')

    def _typed_value(self, part: Parameters, ends: Literals, types: Sequence[str]) -> Reader[None]:
        pieces: list[str] = []
        text = TrimmedText(pieces.append, newlines=part.newlines)
        try:
            yield from self._value_end(part, ends, text.add)
        except EndOfTextError:
            self._arguments("".join(pieces))
            raise
        self._arguments(as_typed("".join(pieces), types))

    def _value_end(self, part: Parameters, ends: Literals, emit: Emit) -> Reader[None]:
        found = yield from self._source.until(ends, emit, take=False)
        if found is None:
            raise EndOfTextError
        if found == part.close:
            self._source.take(len(found))


class TrimmedText:
    """Passes a value's text on, but for one line break on each side of it if `newlines`."""

    def __init__(self, emit: Emit, *, newlines: bool) -> None:
        self._emit = emit
        self._newlines = newlines
        self._begun = False
        self._held = False

    def add(self, text: str) -> None:
        """The next piece; a line break at its end is held back."""
        if not self._newlines:
            self._emit(text)
            return
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\n")
        if not text:
            return
        if self._held:
            text = "\n" + text
        self._held = text.endswith("\n")
        text = text.removesuffix("\n")
        if text:
            self._emit(text)


def _nowhere(_text: str) -> None:
    pass
