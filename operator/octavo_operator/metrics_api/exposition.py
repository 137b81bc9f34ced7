"""Reads the wanted samples out of Prometheus' text format, and passes over everything else. Pure.

An engine tells some hundred series in some ten kilobytes, of which a handful are wanted: a line whose name is not
wanted costs one comparison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*(\S+)(?:\s+-?\d+)?\s*$")
ESCAPE = re.compile(r"\\(.)")

Labels = tuple[tuple[str, str], ...]
"""Sorted by name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series."""

    labels: Labels
    value: float


def parse(text: str, wanted: Collection[str]) -> dict[str, list[Sample]]:
    """The samples by metric. A line that can't be read, and a value that is no finite number, count as missing."""
    found: dict[str, list[Sample]] = {}
    for line in text.splitlines():
        if line.startswith("#") or line.partition("{")[0].partition(" ")[0] not in wanted:
            continue
        if (match := LINE.match(line)) is None:
            continue
        name, labels, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            continue
        if math.isfinite(value):
            found.setdefault(name, []).append(Sample(_labels(labels or ""), value))
    return found


def _labels(text: str) -> Labels:
    pairs = ((name, ESCAPE.sub(_unescaped, value)) for name, value in LABEL.findall(text))
    return tuple(sorted(pairs))


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
