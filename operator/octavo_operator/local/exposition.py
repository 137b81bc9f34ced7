"""Several replicas' /metrics as one text: each sample gets the label `replica`, each family is declared once."""

from __future__ import annotations

import re
from collections.abc import Mapping

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (.+)$")
SUFFIXES = ("_bucket", "_count", "_sum", "_total", "_created")


def merge(texts: Mapping[str, str]) -> str:
    """`texts` holds Prometheus' text format by replica. Lines that are none of a sample, HELP or TYPE are dropped."""
    families: dict[str, tuple[list[str], list[str]]] = {}  # name: declarations, samples
    for replica, text in texts.items():
        for line in text.splitlines():
            if line.startswith("# "):
                words = line.split(" ", 3)
                if len(words) >= 3 and words[1] in {"HELP", "TYPE"}:
                    declarations, _ = families.setdefault(words[2], ([], []))
                    if not any(known.split(" ", 3)[1] == words[1] for known in declarations):
                        declarations.append(line)
            elif match := SAMPLE.match(line):
                name, labels, value = match.groups()
                _, samples = families.setdefault(_family(name, families), ([], []))
                samples.append(f"{name}{_labelled(labels, replica)} {value}")
    lines = [line for declarations, samples in families.values() for line in (*declarations, *samples)]
    return "\n".join(lines) + "\n" if lines else ""


def _family(name: str, families: Mapping[str, object]) -> str:
    if name in families:
        return name
    for suffix in SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in families:
            return name.removesuffix(suffix)
    return name


def _labelled(labels: str | None, replica: str) -> str:
    inner = labels[1:-1].rstrip(",") if labels else ""
    return "{" + (f"{inner}," if inner else "") + f'replica="{replica}"' + "}"
