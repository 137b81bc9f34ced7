"""Two operators over one service would undo each other's writes for ever: the one that was there first gives way.

Which one wrote last is in the status (`operator`). One that finds another's name where its own had been has a rival,
for nothing else changes it; one that finds another's name at first takes over from an installation that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.work_queue import Key


@dataclass
class Rivals:
    """What this process has seen. `own` names the installation: replicas of one share a Lease, and so the name."""

    own: str
    _ours: set[Key] = field(default_factory=set)

    def of(self, key: Key, status: Mapping[str, Any] | None) -> str | None:
        """The other operator that reconciles the service too; None where there is none."""
        last = (status or {}).get("operator")
        if last == self.own:
            self._ours.add(key)
        elif last is not None and key in self._ours:
            return str(last)
        return None

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._ours.discard(key)
