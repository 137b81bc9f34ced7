"""Texts and expressions as Lark writes them, in the dialect of llguidance."""

from __future__ import annotations

import json
import re


def quoted(text: str) -> str:
    """A text as Lark writes it, which is as JSON does."""
    return json.dumps(text)


def regex(expression: str) -> str:
    """A regular expression between slashes."""
    inner = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], expression, flags=re.DOTALL)
    return f"/{inner}/".replace("\n", "\\n").replace("\r", "\\r")


def lazy(literal: str) -> str:
    """A regular expression for any text up to the first `literal`."""
    return f"/(.|\\n)*{escaped(literal)}/"


def escaped(literal: str) -> str:
    """A regular expression for `literal`, as it stands between slashes."""
    return re.sub(r"[/\\|.*+?()\[\]{}^$]", r"\\\g<0>", literal)
