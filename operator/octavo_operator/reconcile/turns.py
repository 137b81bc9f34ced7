"""Decides which service may replace its replicas now: where GPUs are scarce, one at a time per kind of GPU.

Services that are edited in one second would all surge for the same free GPU, and one that goes in place frees a GPU
which another's new replica may take: one that served is left without. So a change begins at once where GPUs are free
beside what others are about to take, and otherwise when no other service of that kind is under way; by then the GPU of
that one's surge is often free again.

Belongs to one event loop. A process that is replaced finds a change that is under way at its first pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from octavo_operator.api.names import NamespacedName
from octavo_operator.planner.plan import Hardware

PROMISE_S = 15.0  # from the decision until the Deployment has changed, or is not about to


@dataclass(frozen=True, slots=True)
class Turn:
    """A change that is under way, or about to be."""

    hardware: Hardware
    until: float
    """End by the own clock: a service without another pass does not delay the others for longer."""
    amount: int
    """GPUs that its new replica is about to take; 0 once its pod exists and is counted as all pods are."""
    ready: int = 0
    """Replicas that answered when it began: it is over when as many do again."""


@dataclass(slots=True)
class Turns:
    """Changes of GPU services, and those that wait for them. `wake` makes a service due."""

    wake: Callable[[NamespacedName], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    _turns: dict[NamespacedName, Turn] = field(default_factory=dict)
    _waiting: dict[NamespacedName, Hardware] = field(default_factory=dict)

    def promised(self, hardware: Hardware, but: NamespacedName) -> int:
        """GPUs of a kind that would do for `hardware`, which services other than `but` are about to take."""
        return sum(turn.amount for turn in self._current(but).values() if _meet(turn.hardware, hardware))

    def other(self, key: NamespacedName, hardware: Hardware) -> NamespacedName | None:
        """The service whose change is under way on the same kind of GPU; None where there is none."""
        return next((each for each, turn in self._current(key).items() if _meet(turn.hardware, hardware)), None)

    def take(self, key: NamespacedName, hardware: Hardware, ready: int) -> None:
        """Begin a change in this pass; `ready` replicas answer."""
        self._waiting.pop(key, None)
        self._turns[key] = Turn(hardware, self.clock() + PROMISE_S, hardware.gpus, ready)

    def keep(self, key: NamespacedName, hardware: Hardware, seconds: float, *, placed: bool) -> None:
        """Replicas still differ from their template, for so long at most; `placed` once its first new pod exists."""
        self._waiting.pop(key, None)
        ready = self._turns[key].ready if key in self._turns else 0
        self._turns[key] = Turn(hardware, self.clock() + seconds, 0 if placed else hardware.gpus, ready)

    def loads(self, key: NamespacedName, ready: int, desired: int) -> bool:
        """True if all its replicas are new ones, of which fewer answer than did before, or than are desired by now."""
        turn = self._turns.get(key)
        return turn is not None and ready < min(turn.ready, desired)

    def wait(self, key: NamespacedName, hardware: Hardware) -> None:
        """Have a change wait."""
        self._waiting[key] = hardware
        self._end(key)

    def leave(self, key: NamespacedName) -> None:
        """Nothing of it is under way, or it does not move on."""
        self._waiting.pop(key, None)
        self._end(key)

    def _end(self, key: NamespacedName) -> None:
        ended = self._turns.pop(key, None)
        if ended is None:
            return
        for each, hardware in self._waiting.items():
            if each != key and _meet(ended.hardware, hardware):
                self.wake(each)

    def _current(self, but: NamespacedName) -> dict[NamespacedName, Turn]:
        now = self.clock()
        self._turns = {key: turn for key, turn in self._turns.items() if turn.until > now}
        return {key: turn for key, turn in self._turns.items() if key != but}


def _meet(one: Hardware, other: Hardware) -> bool:
    """True if a GPU may do for both; without products any will."""
    if one.resource_name != other.resource_name:
        return False
    return not one.products or not other.products or not set(one.products).isdisjoint(other.products)
