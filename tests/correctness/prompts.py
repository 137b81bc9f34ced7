"""Twenty prompts for the comparisons with transformers: sixteen short ones of many kinds, four past 1,200 tokens.

Lengths come in fours and twos, so that the reference can run several at a time without padding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"
LONG = (1207, 1207, 1391, 1391)


def prompts(tokenize: Callable[[str], list[int]]) -> list[list[int]]:
    """Token ids of the twenty prompts under a model's own tokenizer, each cut to its length."""
    ids = []
    for length, texts in json.loads((DATA / "prompts.json").read_text("utf-8")).items():
        for text in texts:
            tokens = tokenize(text)
            assert len(tokens) >= int(length), (len(tokens), text)
            ids.append(tokens[: int(length)])
    paragraphs = [p for name in ("harbour", "clocks") for p in essay(name).split("\n\n")]
    for i, length in enumerate(LONG):
        turned = paragraphs[3 * i :] + paragraphs[: 3 * i]  # another order each, so that no two share a prefix
        ids.append(tokenize("\n\n".join(turned + turned))[:length])
    return ids


def essay(name: str) -> str:
    """A text of some 550 words of plain English."""
    return (DATA / f"{name}.txt").read_text("utf-8")
