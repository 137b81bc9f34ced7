"""Prometheus' text format, read and merged.

An engine exports some hundred series in some ten kilobytes, of which a scrape needs a handful: a line of another metric
costs one comparison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*(\S+(?:\s+-?\d+)?)\s*$")
"""Name, text of the labels, value and perhaps a timestamp."""
LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
ESCAPE = re.compile(r"\\(.)")
SUFFIXES = ("_bucket", "_count", "_sum", "_total", "_created")

Labels = tuple[tuple[str, str], ...]
"""Sorted by name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series."""

    labels: Labels
    value: float


def parse(text: str, names: Collection[str]) -> dict[str, list[Sample]]:
    """The samples of the metrics in `names`. A line that is no sample, or whose value is not finite, counts as missing."""
    found: dict[str, list[Sample]] = {}
    for line in text.splitlines():
        if line.startswith("#") or line.partition("{")[0].partition(" ")[0] not in names:
            continue
        if (match := LINE.match(line)) is None:
            continue
        name, labels, number = match.groups()
        try:
            value = float(number.split()[0])
        except ValueError:
            continue
        if math.isfinite(value):
            found.setdefault(name, []).append(Sample(_labels(labels or ""), value))
    return found


def merge(texts: Mapping[str, str]) -> str:
    """Several replicas' metrics, by replica, as one text.

    Each sample gets the label `replica`, each family is declared once; lines other than samples, HELP and TYPE are
    dropped.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}  # name: declarations, samples
    for replica, text in texts.items():
        for line in text.splitlines():
            if line.startswith("# "):
                words = line.split(" ", 3)
                if len(words) >= 3 and words[1] in {"HELP", "TYPE"}:
                    declarations, _ = families.setdefault(words[2], ([], []))
                    if not any(known.split(" ", 3)[1] == words[1] for known in declarations):
                        declarations.append(line)
            elif match := LINE.match(line):
                name, labels, value = match.groups()
                _, samples = families.setdefault(_family(name, families), ([], []))
                samples.append(f"{name}{_labelled(labels, replica)} {value}")
    lines = [line for declarations, samples in families.values() for line in (*declarations, *samples)]
    return "\n".join(lines) + "\n" if lines else ""


def _labels(text: str) -> Labels:
    pairs = ((name, ESCAPE.sub(_unescaped, value)) for name, value in LABEL.findall(text))
    return tuple(sorted(pairs))


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _family(name: str, families: Mapping[str, object]) -> str:
    """The name under which a sample's metric was declared."""
    if name in families:
        return name
    for suffix in SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in families:
            return name.removesuffix(suffix)
    return name


def _labelled(labels: str | None, replica: str) -> str:
    inner = labels.rstrip(",") if labels else ""
    return "{" + (f"{inner}," if inner else "") + f'replica="{replica}"' + "}"
