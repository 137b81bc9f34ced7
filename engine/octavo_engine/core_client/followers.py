"""Requests that are sent once another one of the same prompt has computed its blocks, which its first output shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Message = tuple[str, bytes]  # a request's id, and the request as it is sent


class Followers:
    """The requests that wait, by the id of the one that they wait for."""

    def __init__(self) -> None:
        self._of: dict[str, list[Message]] = {}

    def __contains__(self, leader: str) -> bool:
        return leader in self._of

    def hold(self, messages: Sequence[Message], behind: Mapping[str, str]) -> list[Message]:
        """Keep those that wait for another one, `behind[id]`; the others."""
        for message in messages:
            if (leader := behind.get(message[0])) is not None:
                self._of.setdefault(leader, []).append(message)
        return [message for message in messages if message[0] not in behind]

    def release(self, leader: str) -> list[Message]:
        """Take out the requests that waited for `leader`."""
        return self._of.pop(leader, [])
