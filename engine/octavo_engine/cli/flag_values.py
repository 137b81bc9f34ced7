"""Readers of flag values for argparse, one function for each kind of value."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from decimal import Decimal
from importlib.util import find_spec

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)([kmgtKMGT]?)")


def human_int(text: str) -> int:
    """`4096`, `4k` = 4000, `4K` = 4096, `1.5k` = 1500: vLLM's way of writing numbers."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 4096, 4k (4000) or 4K (4096)")
    number, suffix = Decimal(match[1]), match[2]
    value = number * (_DECIMAL | _BINARY).get(suffix, 1)
    if value != value.to_integral_value() or (suffix in _BINARY and number != number.to_integral_value()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def at_least(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = human_int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
        return value

    return number


def model_len(text: str) -> int | None:
    return None if text in {"auto", "-1"} else at_least(1)(text)


def max_logprobs(text: str) -> int:
    return -1 if text == "-1" else at_least(0)(text)


def fraction(text: str) -> float:
    value = non_negative(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def non_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return value


def port(text: str) -> int:
    value = human_int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535; 0 takes a free one)")
    return value


def strings(text: str) -> list[str]:
    """A JSON list, as vLLM writes it, or one plain value."""
    if not text.startswith("["):
        return [text]
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON list of strings")
    return value


def json_object(text: str) -> str:
    """A JSON object, as its text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return text


def reasoning_config(text: str) -> dict[str, str]:
    """The fields of vLLM's reasoning config, which are texts: both delimiters, or none, and the parser's name."""
    config: dict[str, object] = json.loads(json_object(text))
    known = {"reasoning_start_str", "reasoning_end_str", "reasoning_parser"}
    if unknown := config.keys() - known:
        raise argparse.ArgumentTypeError(f"{min(unknown)} is no field of it; there are {', '.join(sorted(known))}")
    texts = {name: value for name, value in config.items() if isinstance(value, str)}
    if texts.keys() != config.keys():
        raise argparse.ArgumentTypeError(f"{min(config.keys() - texts.keys())} is not a text")
    if bool(texts.get("reasoning_start_str")) != bool(texts.get("reasoning_end_str")):
        raise argparse.ArgumentTypeError("reasoning_start_str and reasoning_end_str belong together: name both or none")
    return texts


def traces_endpoint(text: str) -> str | None:
    """The URL of an OTLP receiver; the empty text is none."""
    if text and not all(map(_installed, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto"))):
        raise argparse.ArgumentTypeError(
            "OpenTelemetry is not installed here: pip install 'octavo[otel]', or leave the flag out"
        )
    return text or None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def pooling(text: str) -> str | None:
    """The pooling that vLLM's pooler config names, in lower case; None where it names none."""
    config: dict[str, object] = json.loads(json_object(text))
    named = {config.pop(key) for key in ("pooling_type", "seq_pooling_type") if key in config}
    if config:
        raise argparse.ArgumentTypeError(f"{', '.join(config)}: pooling_type alone is served; leave the others out")
    if not named:
        return None
    kind = str(named.pop()).lower()
    if named or kind not in {"mean", "cls", "last", "max"}:
        raise argparse.ArgumentTypeError(f"{text}: pooling_type is one of MEAN, CLS, LAST and MAX")
    return kind
