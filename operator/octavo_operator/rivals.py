"""Two operators over one service would undo each other's writes for ever: the one that was there first gives way.

Which one wrote last is in the status (`operator`). One that finds another's name where its own had been has a rival,
for nothing else changes it; one that finds another's name at first takes over from an installation that is gone.

The rival may be uninstalled later. Then nothing renews its Lease: the service is taken back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.cluster import Cluster
from octavo_operator.errors import ApiError
from octavo_operator.leader import LEASE_S, NAME
from octavo_operator.resources import LEASES
from octavo_operator.work_queue import Key

GONE_S = 4.0 * LEASE_S  # longer than an upgrade of the rival leaves its Lease without a holder


@dataclass
class Rivals:
    """What this process has seen. `own` names the installation: replicas of one share a Lease, and so the name."""

    own: str
    clock: Callable[[], float] = time.monotonic
    _ours: set[Key] = field(default_factory=set)
    _leases: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By namespace: the resourceVersion of a rival's Lease, and when it was first seen."""

    def of(self, key: Key, status: Mapping[str, Any] | None) -> str | None:
        """The other operator that reconciles the service too; None where there is none."""
        last = (status or {}).get("operator")
        if last == self.own:
            self._ours.add(key)
        elif last is not None and key in self._ours:
            return str(last)
        return None

    async def is_gone(self, cluster: Cluster, rival: str) -> bool:
        """Whether the Lease of a rival is not there, or was not renewed between two looks.

        No clock but our own decides. Never where we may not look, as an operator of single namespaces may not.
        """
        try:
            lease = await cluster.get(LEASES, rival, NAME)
        except ApiError as error:
            if error.status == 403:
                return False
            raise
        if lease is None:
            return True
        version, now = lease["metadata"]["resourceVersion"], self.clock()
        if self._leases.get(rival, ("", 0.0))[0] != version:
            self._leases[rival] = (version, now)
        return now - self._leases[rival][1] > GONE_S

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._ours.discard(key)
