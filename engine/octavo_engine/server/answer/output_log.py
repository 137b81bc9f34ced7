"""The log of answers, for `--enable-log-outputs`: a line for each choice, with the beginning of its text."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from octavo_engine.server.generation import Piece

logger = logging.getLogger(__name__)

MOST_CHARACTERS = 1000


class OutputLog:
    """The answer of one request, by its id."""

    def __init__(self, id_: str) -> None:
        self._id = id_
        self._texts: dict[int, str] = {}

    def add(self, pieces: Iterable[Piece]) -> None:
        """Take the next pieces; a choice that has ended is logged."""
        for piece in pieces:
            index = piece.choice.index
            text = self._texts.pop(index, "") + piece.text
            if piece.finish_reason is None:
                self._texts[index] = text[: MOST_CHARACTERS + 1]
                continue
            shown = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"
            logger.info(
                *("%s, choice %d, ended by %s: %r", self._id, index, piece.finish_reason, shown),
                extra={"request_id": self._id},
            )
