"""GPUs that services are about to take by a surge, from the decision until the new pod exists.

Several services that are edited in one second would all count the same free GPU, each surge for it, and all but one wait
with no room. Belongs to one event loop; a process that is replaced forgets at most the last seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from octavo_operator.work_queue import Key

PROMISE_S = 15.0  # by when the Deployment's controller has created the pod, or is not about to


@dataclass(slots=True)
class Surges:
    """Promises by service: a resource, how much of it, and until when."""

    clock: Callable[[], float] = time.monotonic
    _promises: dict[Key, tuple[str, int, float]] = field(default_factory=dict)

    def promise(self, key: Key, resource: str, amount: int) -> None:
        self._promises[key] = (resource, amount, self.clock() + PROMISE_S)

    def settle(self, key: Key) -> None:
        """Its pod exists, and is counted as all pods are."""
        self._promises.pop(key, None)

    def promised(self, resource: str, but: Key) -> int:
        """To other services than `but`."""
        now = self.clock()
        self._promises = {key: promise for key, promise in self._promises.items() if promise[2] > now}
        return sum(amount for key, (name, amount, _) in self._promises.items() if name == resource and key != but)
