"""Kubernetes' label selectors in their text form: `a=b,c!=d,e in (x,y),f notin (z),g,!h`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from octavo_operator.errors import OperatorError

KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
VALUE = r"[A-Za-z0-9._-]*"
EQUALITY = re.compile(rf"({KEY})\s*(==|=|!=)\s*({VALUE})")
SET = re.compile(rf"({KEY})\s+(in|notin)\s*\(\s*({VALUE}(?:\s*,\s*{VALUE})*)\s*\)")
EXISTENCE = re.compile(rf"(!?)\s*({KEY})")
COMMA = re.compile(r"\s*(?:,\s*|$)")

Labels = Mapping[str, str]
Selector = Callable[[Labels], bool]


class SelectorError(OperatorError):
    """A selector can't be read; HTTP 400."""


def parse(text: str) -> Selector:
    """Parse a selector into a test of labels; an empty one matches all. `!=` and `notin` match a missing key.

    Raises SelectorError.
    """
    requirements: list[Selector] = []
    at, text = 0, text.strip()
    while at < len(text):
        for pattern, make in ((SET, _of_set), (EQUALITY, _of_equality), (EXISTENCE, _of_existence)):
            match = pattern.match(text, at)
            rest = None if match is None else COMMA.match(text, match.end())
            if match is not None and rest is not None:
                requirements.append(make(match))
                at = rest.end()
                break
        else:
            raise SelectorError(
                f"the selector {text!r} can't be read from {text[at:]!r} on; write key=value,key in (a,b)"
            )
    return lambda labels: all(holds(labels) for holds in requirements)


def _of_set(match: re.Match[str]) -> Selector:
    key, operator = match[1], match[2]
    values = {value.strip() for value in match[3].split(",")}
    if operator == "in":
        return lambda labels: labels.get(key) in values
    return lambda labels: labels.get(key) not in values


def _of_equality(match: re.Match[str]) -> Selector:
    key, operator, value = match.groups()
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    return lambda labels: labels.get(key) == value


def _of_existence(match: re.Match[str]) -> Selector:
    absent, key = bool(match[1]), match[2]
    return lambda labels: (key in labels) != absent
