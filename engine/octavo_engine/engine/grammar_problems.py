"""Sentences for a client whose grammar can't be used: from llguidance's messages, with what to do."""

from __future__ import annotations

import re

MOST_PROBLEM = 500  # characters of a message, which may quote all of a grammar
_SENTENCES = (
    (
        re.compile(r"Unimplemented keys: \[(?P<what>[^\]]*)\]"),
        "JSON Schema's {what} can't be held to: leave it out, and check the answer yourself",
    ),
    (
        re.compile(r"Unknown format: (?P<what>.*)"),
        "the format {what} can't be held to: leave it out, or send a pattern in its place",
    ),
    (
        re.compile(r"oneOf constraints are not supported.*"),
        (
            "JSON Schema's oneOf can't be held to where a value may match two of its alternatives: use anyOf, or give each "
            "alternative one property with a const of its own"
        ),
    ),
    (
        re.compile(r"recursion limit exceeded.*"),
        "the schema is nested too deeply: divide it into definitions ($defs) and refer to them",
    ),
    (
        re.compile(r"Resource '(?P<what>[^']*)' is not present.*"),
        "the reference to {what} leads out of the schema, and nothing is fetched: put what it refers to into $defs",
    ),
)


def unusable(problem: str) -> str:
    """The sentence for a grammar that can't be compiled."""
    line = _first_lines(problem)
    for pattern, sentence in _SENTENCES:
        if found := pattern.search(line):
            line = sentence.format(what=found.groupdict().get("what", "").replace('"', ""))
    return f"the grammar of the answer can't be used: {line}"


def too_costly(problem: str) -> str:
    """The sentence for an answer whose next tokens took more work than is allowed."""
    return f"the grammar of the answer took too much work: make it or its schema smaller ({_first_lines(problem)})"


def _first_lines(problem: str) -> str:
    line = problem.partition("\n<state>")[0].strip()
    return line if len(line) <= MOST_PROBLEM else line[:MOST_PROBLEM] + "…"
