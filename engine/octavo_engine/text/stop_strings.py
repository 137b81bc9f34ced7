"""Finds stop strings in a text that arrives in pieces.

An automaton over all stop strings (Aho and Corasick, 1975): each character is looked at once, and its state's depth
is how much of the text's end could still become a stop string. The first to end wins, whatever the token borders;
of several that end together, the longest. The automaton is built once a request; each of its texts has a search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from octavo_engine.errors import RequestError

MAX_STOP_STRINGS = 128
MAX_STOP_CHARACTERS = 4096  # of all together: the automaton has a state a character


class StopStrings:
    """The automaton, which never changes."""

    def __init__(self, strings: Sequence[str], turns: Sequence[str] = ()) -> None:
        """`strings` are the request's, `turns` the chat template's, which no answer includes.

        Raises RequestError for `stop`: an empty string, or more than the limits above.
        """
        if "" in strings:
            raise RequestError("stop contains an empty string, which would stop everything: leave it out", "stop")
        if len(strings) > MAX_STOP_STRINGS or sum(map(len, strings)) > MAX_STOP_CHARACTERS:
            raise RequestError(
                f"stop has {len(strings)} strings of {sum(map(len, strings))} characters; at most "
                f"{MAX_STOP_STRINGS} of {MAX_STOP_CHARACTERS} are possible",
                "stop",
            )
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._fail = [0]
        self._match: list[str | None] = [None]
        for string in (*strings, *turns):
            self._insert(string)
        self.never_included = frozenset(turns).difference(strings)
        self._link()
        self._first = frozenset(self._next[0])

    def held(self, state: int) -> int:
        """The number of characters at the end of a text that led to `state` which begin a stop string."""
        return self._depth[state]

    def find(self, text: str, state: int, *, ignore: bool) -> tuple[tuple[str, int] | None, int]:
        """Search `text` from `state` on. Returns what `StopSearch.find` does, and the state after `text`."""
        if not state and self._first.isdisjoint(text):
            return None, state
        for position, character in enumerate(text, 1):
            while state and character not in self._next[state]:
                state = self._fail[state]
            state = self._next[state].get(character, 0)
            found = self._match[state]
            if found is not None:
                if not ignore:
                    return (found, position), 0
                while state and not self._next[state]:  # no longer match is possible
                    state = self._fail[state]
        return None, state

    def _insert(self, string: str) -> None:
        state = 0
        for character in string:
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._fail.append(0)
                self._match.append(None)
            state = following
        self._match[state] = string

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self._next[state].items():
                fail = self._fail[state]
                while fail and character not in self._next[fail]:
                    fail = self._fail[fail]
                fail = self._next[fail].get(character, 0)
                self._fail[following] = fail
                if self._match[following] is None:
                    self._match[following] = self._match[fail]
                queue.append(following)


class StopSearch:
    """The search in one text. Feed it with `find`; the last `held` characters may be the beginning of a stop string."""

    def __init__(self, strings: StopStrings) -> None:
        self._strings = strings
        self._state = 0

    @property
    def held(self) -> int:
        return self._strings.held(self._state)

    def find(self, text: str, *, ignore: bool = False) -> tuple[str, int] | None:
        """The first stop string that ends within `text`, and where it ends (in characters of `text`).

        It may have begun in an earlier text. With `ignore`, strings that end here do not count.
        """
        found, self._state = self._strings.find(text, self._state, ignore=ignore)
        return found
