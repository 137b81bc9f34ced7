"""The grammar of an answer that calls tools, derived from the format of the model's answers.

Written in Lark as llguidance reads it, with tools' schemas as `%json`. The white space within a call is what templates
write, so that a constrained call looks as the model was trained to write it. Values that a format writes as text, such as
those between XML tags, are held to their schema as far as text has one: see `_text_value`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from octavo_engine.text.answer_format import (
    AnswerFormat,
    Arguments,
    Calls,
    Maybe,
    Name,
    Object,
    Parameters,
    Part,
    Skip,
)
from octavo_engine.text.json_schema import MAX_WRITTEN_CHARACTERS, followed
from octavo_engine.text.lark import escaped, lazy, quoted, regex

TokenOf = Callable[[str], int | None]

# As `json.dumps` and chat templates space JSON. Free white space would let a small model write it until max_tokens.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = {"type": "object"}
LINE = "\n"
_TEXT = "TEXT: /(.|\\n)*/"
_SPACE = "WS: /[ \\n]{0,2}/"
_STRING_KEYWORDS = {
    "type",
    "title",
    "description",
    "default",
    "examples",
    "enum",
    "const",
    "pattern",
    "minLength",
    "maxLength",
}


class GrammarError(Exception):
    """A tool's schema can't be honoured in the model's format; the message says which part."""


def tool_grammar(
    answer_format: AnswerFormat,
    tools: Sequence[Mapping[str, Any]],
    choice: Literal["auto", "required"],
    *,
    token_of: TokenOf = lambda _text: None,
    parallel: bool = True,
    starts_in_reasoning: bool = False,
) -> str:
    """The grammar of an answer that may, or must, call `tools`, which have OpenAI's form.

    `auto`: any text, and from a call's opening delimiter on a call. `required`: nothing but reasoning and calls, of which
    there is one unless `parallel`. `token_of` is the id of a special token by its text; a delimiter that is none is text.

    Raises:
        GrammarError: the schema of a tool with `strict` has what the format can't be held to, or an answer in this format
            can't be held to a call.
    """
    writer = _Writer(answer_format, token_of)
    if choice == "auto":
        return writer.auto(tools)
    return writer.whole(tools, "", parallel=parallel, starts_in_reasoning=starts_in_reasoning)


def answer_grammar(
    answer_format: AnswerFormat,
    content: str,
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    token_of: TokenOf = lambda _text: None,
    parallel: bool = True,
    starts_in_reasoning: bool = False,
) -> str:
    """The grammar of an answer whose content matches the grammar `content`, a JSON object of llguidance with one grammar.

    Reasoning may come before it, and calls of `tools` in its place. Raises as `tool_grammar`.
    """
    (inner,) = json.loads(content)["grammars"]
    lark = _Writer(answer_format, token_of).whole(
        tools, "@content", parallel=parallel, starts_in_reasoning=starts_in_reasoning
    )
    return json.dumps({"grammars": [{"lark_grammar": lark}, {"name": "content", **inner}]})


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, answer_format: AnswerFormat, token_of: TokenOf) -> None:
        self._format = answer_format
        self._calls = answer_format.calls or Calls(call=())
        self._token_of = token_of
        special = {text: index for literal in answer_format.literals for text, index in self._tokens(literal)}
        self._special = special
        self._split = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self._rules: list[str] = []
        self._length = 0  # characters of schemas

    def auto(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """The grammar of text with calls in it. Raises GrammarError where nothing shows that one begins."""
        if self._calls.bare_first or not self._calls.open:
            raise GrammarError(f"calls of the format {self._format.name} have no delimiter")
        # A lazy rule ends where the delimiter does, so that the text before it can hold no other.
        opened = self._until(self._calls.open[0], "opened")
        return self._written(f"({opened} ({self._blocks(tools, parallel=True)}))* TEXT")

    def whole(
        self, tools: Sequence[Mapping[str, Any]], content: str, *, parallel: bool, starts_in_reasoning: bool
    ) -> str:
        """The grammar of reasoning, and then calls or `content`, a rule; empty: calls alone."""
        forms = []
        if tools:
            opened = [] if self._calls.bare_first else list(self._calls.open[:1])
            calls = f"({self._sequence(opened)} ({self._blocks(tools, parallel=parallel)}))"
            forms.append(calls + (f" (WS {calls})*" if parallel and opened else ""))
        if content:
            marked = self._format.content
            forms.append(content if marked is None else f"{self._literal(marked.open[0])} {content}")
        return self._written(f"{self._before(starts_in_reasoning)} ({' | '.join(forms)})")

    def _written(self, start: str) -> str:
        return "\n".join([f"start: {start}", *self._rules, _TEXT, _SPACE])

    def _blocks(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        functions = [tool["function"] for tool in tools]
        return " | ".join(
            self._block(form, functions, number, parallel=parallel) for number, form in enumerate(self._calls.call)
        )

    def _tokens(self, literal: str) -> Iterable[tuple[str, int]]:
        """The special tokens within a literal: each run between angle or square brackets, or all of it."""
        for text in {literal, *re.findall(r"<[^<>]*>|\[[^\[\]]*\]", literal)}:
            index = self._token_of(text)
            if index is not None:
                yield text, index

    def _literal(self, text: str) -> str:
        """A delimiter: its special tokens by number, the rest as text."""
        if not text:
            return ""
        parts, at = [], 0
        for found in self._split.finditer(text):
            if found.start() > at:
                parts.append(quoted(text[at : found.start()]))
            parts.append(f"<[{self._special[found[0]]}]>")
            at = found.end()
        if at < len(text):
            parts.append(quoted(text[at:]))
        return " ".join(parts)

    def _sequence(self, literals: Sequence[str]) -> str:
        return " WS ".join([*map(self._literal, literals), ""]) if literals else ""

    def _until(self, literal: str, name: str) -> str:
        """A rule for any text up to the first `literal`, which it includes."""
        found = self._split.match(literal)
        if found is not None:  # text holds no special token
            self._rules.append(f"{name}: TEXT {self._literal(literal)} WS")
        else:
            self._rules += [f"{name}: {name}_text WS", f"{name}_text[lazy]: {lazy(literal)}"]
        return name

    def _before(self, starts_in_reasoning: bool) -> str:
        """The rule for what may come before calls that are required: reasoning."""
        reasoning = self._format.reasoning
        if reasoning is None:
            return ""
        ended = f"{self._until(reasoning.close[0], 'reasoning')} {self._header()}"
        if starts_in_reasoning or reasoning.starts_open:
            return ended
        return f"({self._literal(reasoning.open[0])} {ended})? WS"

    def _header(self) -> str:
        """The text between two messages, in harmony."""
        return f"{self._literal('<|start|>assistant')}" if self._format.content is not None else ""

    def _block(
        self, form: Sequence[Part], functions: Sequence[Mapping[str, Any]], number: int, *, parallel: bool
    ) -> str:
        """A rule for a block of calls, without what opens it."""
        name = f"block{number}"
        calls = [self._call(form, function, f"call{number}_{i}") for i, function in enumerate(functions)]
        self._rules.append(f"any_{name}: {' | '.join(calls)}")
        begin, between, end = self._calls.list
        juxtaposed = isinstance(form[0], str) and bool(self._calls.open)
        if not isinstance(form[0], Object) and len(self._calls.call) > 1:
            begin = between = end = ""
        more = ""
        if parallel and between.strip():
            more = f"(WS {quoted(between)} WS any_{name})*"
        elif parallel and (between or juxtaposed):
            more = f"({quoted(between) if between else 'WS'} any_{name})*"
        begin, end = self._literal(begin), self._literal(end)
        parts = [begin and f"{begin} WS", f"any_{name}", more, end and f"WS {end}"]
        close = f"WS {self._literal(self._calls.close[0])}" if self._calls.close and not self._calls.bare_first else ""
        self._rules.append(f"{name}: {' '.join(filter(None, parts))} {close}")
        return name

    def _call(self, form: Sequence[Part], function: Mapping[str, Any], rule: str) -> str:
        """A rule for a call of one function."""
        name = str(function["name"])
        schema = followed(dict(function.get("parameters") or ANY_OBJECT))
        assert isinstance(schema, dict)
        strict = function.get("strict") is True
        parts: list[str] = []
        for i, part in enumerate(form):
            match part:
                case str():
                    parts.append(self._literal(part))
                case Maybe(text=text):
                    parts.append(self._literal(text))
                case Skip(usual=usual):
                    parts.append(self._literal(usual))
                case Name():
                    number = ' ":" /[0-9]{1,4}/' if part.numbered else ""
                    parts.append(quoted(part.prefix + name) + number)
                case Arguments(style="python"):
                    parts.append(self._listed(schema, rule, '"("', '")"', lambda key: f"{key}=", ""))
                case Arguments(quotes=quotes) if quotes:
                    parts.append(self._listed(schema, rule, '"{"', '"}"', lambda key: f"{key}:", quotes))
                case Arguments():
                    parts.append(self._json(schema))
                case Object(keyed=True):
                    parts.append(f"{quoted(f'{{{json.dumps(name)}: ')} {self._json(schema)} {quoted('}')}")
                case Object():
                    head = f'{{"{part.name[0]}": {json.dumps(name, ensure_ascii=False)}, "{part.arguments[0]}": '
                    parts.append(f"{quoted(head)} {self._json(schema)} {quoted('}')}")
                case Parameters():
                    parts.append(self._parameters(part, schema, rule, strict=strict))
            if _is_spaced(part, form[i + 1] if i + 1 < len(form) else None):
                parts.append("WS")
        self._rules.append(f"{rule}: {' '.join(filter(None, parts))}")
        return rule

    def _json(self, schema: Mapping[str, Any]) -> str:
        """A value in JSON. Raises GrammarError once all of them are longer than a grammar may be."""
        text = f"%json {json.dumps({**schema, 'x-guidance': SPACING})}"
        self._length += len(text)
        if self._length > MAX_WRITTEN_CHARACTERS:
            raise GrammarError(f"their schemas have more than {MAX_WRITTEN_CHARACTERS} characters as a grammar")
        return text

    def _listed(
        self,
        schema: Mapping[str, Any],
        rule: str,
        begin: str,
        end: str,
        spelled: Callable[[str], str],
        quotes: str,
    ) -> str:
        """Arguments in one value that is not JSON: each key in the schema's order, its value in JSON or between quotes."""
        values = {
            key: self._quoted_value(key, schema, quotes) if quotes else self._json(_part(schema, key))
            for key in _properties(schema)
        }
        pairs = {key: f"{quoted(spelled(key))} {value}" for key, value in values.items()}
        return f"{begin} {self._chain(schema, rule, pairs, quoted(',' if quotes else ', '))} {end}"

    def _quoted_value(self, key: str, schema: Mapping[str, Any], quotes: str) -> str:
        part = _part(schema, key)
        if part.get("type") != "string":
            return self._json(part)
        mark = self._literal(quotes)
        if "enum" in part:
            return "(" + " | ".join(f"{mark} {quoted(str(value))} {mark}" for value in part["enum"]) + ")"
        if self._split.match(quotes):
            return f"{mark} TEXT {mark}"
        name = f"quoted_{len(self._rules)}"
        self._rules.append(f"{name}[lazy]: {lazy(quotes)}")
        return f"{mark} {name}"

    def _chain(self, schema: Mapping[str, Any], rule: str, pairs: Mapping[str, str], separator: str) -> str:
        """The properties in order, those that are not required or not: `rule_N` where one came before, `rule_first_N` else."""
        required = _required(schema)
        keys = list(pairs)
        if not keys:
            return ""
        for i, key in enumerate(keys):
            rest = f" {rule}_{i + 1}" if i + 1 < len(keys) else ""
            later = f"{rule}_{i + 1}" if rest else '""'
            first = f"{rule}_first_{i + 1}" if rest else '""'
            skipped = key not in required
            self._rules.append(f"{rule}_{i}: {separator} {pairs[key]}{rest}" + (f" | {later}" if skipped else ""))
            self._rules.append(f"{rule}_first_{i}: {pairs[key]}{rest}" + (f" | {first}" if skipped else ""))
        return f"{rule}_first_0"

    def _parameters(self, part: Parameters, schema: Mapping[str, Any], rule: str, *, strict: bool) -> str:
        """Parameters in the schema's order, one after the other."""
        required = _required(schema)
        parts: list[str] = []
        for i, key in enumerate(_properties(schema)):
            name = f"{rule}_p{i}"
            value = self._parameter_value(part, _part(schema, key), name, key, strict=strict)
            # Where there are two, the second is for values that are no strings.
            key_end = part.key_end[_part(schema, key).get("type") != "string" and len(part.key_end) > 1]
            head = self._literal(part.open + key + key_end)
            begin = f"WS {self._literal(part.value_begin)}" if part.value_begin else ""
            line = f"{quoted(LINE)}?" if part.newlines else ""
            self._rules.append(f"{name}: " + " ".join(filter(None, [head, begin, line, value])))
            parts.append(f"({name} WS)" + ("" if key in required else "?"))
        return " ".join(parts)

    def _parameter_value(
        self, part: Parameters, schema: Mapping[str, Any], name: str, key: str, *, strict: bool
    ) -> str:
        """A value and what closes it."""
        found = self._text_value(schema, key, strict=strict)
        if found is not None:
            line = f"{quoted(LINE)}? " if part.newlines else ""
            return f"{found} {line}{self._literal(part.close)}"
        # What the parser takes for the end of a value whose `close` was forgotten can't be part of one.
        ends = [text for text in part.ends if not self._split.match(text)]
        without = f" & ~/(.|\\n)*({'|'.join(map(escaped, ends))})(.|\\n)*/" if ends else ""
        terminal = name.upper() + "_TEXT"
        if self._split.match(part.close):
            self._rules.append(f"{terminal}: /(.|\\n)*/{without}")
            return f"{terminal} {self._literal(part.close)}"
        self._rules += [f"{terminal}: {lazy(part.close)}{without}", f"{name}_text[lazy]: {terminal}"]
        return f"{name}_text"

    def _text_value(self, schema: Mapping[str, Any], key: str, *, strict: bool) -> str | None:
        """The pattern of a value as text; None: any text, for it is a string.

        A string is held to `enum`, `const`, an anchored `pattern` and its lengths; what else a schema says of a string has
        no form as text.
        """
        kinds = schema.get("type")
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list) and values:
            return "(" + " | ".join(quoted(v if isinstance(v, str) else json.dumps(v)) for v in values) + ")"
        if kinds != "string":
            texts = kinds is None or (isinstance(kinds, list) and "string" in kinds) or "anyOf" in schema
            return None if texts else self._json(schema)
        unknown = schema.keys() - _STRING_KEYWORDS
        pattern = schema.get("pattern")
        lengths = schema.keys() & {"minLength", "maxLength"}
        if strict and (unknown or (pattern is not None and (lengths or not _is_anchored(pattern)))):
            what = "a pattern that is not anchored (^…$), or one beside lengths"
            what = f"the keyword {min(unknown)}" if unknown else what
            raise GrammarError(
                f"its parameter {key} has {what}, to which a string can't be held in this model's format"
            )
        if isinstance(pattern, str) and _is_anchored(pattern):
            return regex(pattern[1:-1])
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if (least, most) != (0, "") and isinstance(least, int) and isinstance(most, int | str):
            return f"/(.|\\n){{{least},{most}}}/"
        return None


def _properties(schema: Mapping[str, Any]) -> Sequence[str]:
    properties = schema.get("properties")
    return list(properties) if isinstance(properties, Mapping) else []


def _part(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The schema of a property, with the definitions that it may refer to."""
    part = schema["properties"][key]
    part = dict(part) if isinstance(part, Mapping) else {}
    return part | {name: schema[name] for name in ("$defs", "definitions") if name in schema and _refers(part)}


def _required(schema: Mapping[str, Any]) -> set[str]:
    names = schema.get("required")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _refers(schema: Any) -> bool:
    return "$ref" in json.dumps(schema)


def _is_spaced(part: Part, following: Part | None) -> bool:
    """Return whether templates may write white space between two parts."""
    if following is None or (isinstance(part, Name | Skip | Maybe) and isinstance(following, Arguments)):
        return False
    if isinstance(part, Name | Skip) or isinstance(following, Name | Skip | Maybe):
        # a name stands alone but before a line of parameters or a block of code
        return isinstance(part, Name) and isinstance(following, Parameters)
    return True


def _is_anchored(pattern: Any) -> bool:
    return (
        isinstance(pattern, str) and pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")
    )
