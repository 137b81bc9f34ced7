"""The responses of /v1/responses that may be asked for again, in memory and within bounds: the oldest go first.

A response belongs to the API key that made it. Those of another replica, or from before a restart, are not known.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.response_items import Response
from octavo_engine.server.intake.limits import MAX_STORED_CHARACTERS, MAX_STORED_RESPONSES


@dataclass(slots=True, eq=False)
class Stored:
    """A response, and the conversation up to it: `messages` of a chat, its own answer included once it is whole."""

    response: Response
    key: int | None
    messages: list[dict[str, Any]]
    cancel: Callable[[], None] | None = None  # of one that is made in the background
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    size: int = 0  # characters of the messages and of the response's fields, about; counted where it is 0

    def __post_init__(self) -> None:
        self.size = self.size or num_characters(self.messages) + num_characters(self.response)


def num_characters(kept: Any) -> int:
    """Characters that a message, a response or a list of them takes, about."""
    return len(msgspec.json.encode(kept))


class StoredResponses:
    """Responses by id."""

    def __init__(self) -> None:
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self._size = 0

    def add(self, stored: Stored) -> None:
        """Keep a response; the oldest ones that are not being made go, where there are too many."""
        self._stored[stored.response.id] = stored
        self._size += stored.size
        for response_id in list(self._stored):
            if len(self._stored) <= MAX_STORED_RESPONSES and self._size <= MAX_STORED_CHARACTERS:
                break
            if self._stored[response_id].task is None and response_id != stored.response.id:
                self._size -= self._stored.pop(response_id).size

    def grow(self, stored: Stored, message: dict[str, Any], size: int) -> None:
        """Add the answer to a response's conversation."""
        stored.messages.append(message)
        if self._stored.get(stored.response.id) is stored:
            stored.size += size
            self._size += size

    def get(self, response_id: str, key: int | None, param: str = "response_id") -> Stored:
        """The response of that id. Raises RequestError (404) if this key has none."""
        stored = self._stored.get(response_id)
        if stored is None or stored.key != key:
            raise RequestError(
                f"there is no response {response_id[:80]!r}: it was not stored, has made room for newer ones, or was made by "
                "another replica; send the whole conversation instead",
                param,
                status=404,
            )
        return stored

    def delete(self, response_id: str, key: int | None) -> None:
        """Forget a response. Raises as `get`."""
        stored = self.get(response_id, key)
        if stored.cancel is not None:
            stored.cancel()
        self._size -= self._stored.pop(response_id).size
