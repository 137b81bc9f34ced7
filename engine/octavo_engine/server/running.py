"""Requests that others may end by their names while they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Running:
    """The running requests that have a name; a name that is used twice stands for both."""

    def __init__(self) -> None:
        self._aborts: dict[str, list[Callable[[], None]]] = {}

    @contextmanager
    def named(self, name: str, abort: Callable[[], None]) -> Iterator[None]:
        """Let `abort` be called by `name` for as long as this lasts."""
        self._aborts.setdefault(name, []).append(abort)
        try:
            yield
        finally:
            left = self._aborts[name]
            left.remove(abort)
            if not left:
                del self._aborts[name]

    def abort(self, names: Iterable[str]) -> None:
        """End the requests of these names; unknown ones are ignored."""
        for name in names:
            for abort in tuple(self._aborts.get(name, ())):
                abort()
