"""Two operators over one service would undo each other's writes endlessly: the one that was there first yields.

Which one wrote last is in the status (`operator`). One that finds another's name where its own had been has a rival,
for nothing else changes it; one that finds another's name at first takes over from an installation that is gone.
The one that gives way writes the condition TwoOperators and its name (`otherOperator`); the other one keeps both in the
status that it goes on writing.

Either may be uninstalled later. Then nothing renews its Lease: the service is taken back, or the condition ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import LEASES
from octavo_operator.cluster.client import Cluster
from octavo_operator.cluster.leader import LEASE_S, NAME
from octavo_operator.errors import ApiError

OTHER = "otherOperator"
GONE_S = 4.0 * LEASE_S  # longer than an upgrade of the rival leaves its Lease without a holder


@dataclass
class Rivals:
    """The rivals that this process has seen. `own` names the installation: replicas of one share a Lease, and so the
    name.
    """

    own: str
    clock: Callable[[], float] = time.monotonic
    _ours: set[NamespacedName] = field(default_factory=set)
    _alone: set[NamespacedName] = field(default_factory=set)
    """Services whose status this process has seen without another operator: what is in it since was written by a live one."""
    _leases: dict[str, tuple[str, float]] = field(default_factory=dict)
    """The resourceVersion of a rival's Lease, and when it was first seen, by namespace."""

    def of(self, key: NamespacedName, status: Mapping[str, Any] | None) -> str | None:
        """The other operator that reconciles the service too; None where there is none."""
        last = (status or {}).get("operator")
        if last == self.own:
            self._ours.add(key)
        elif last is not None and key in self._ours:
            return str(last)
        return None

    async def gave_way(self, cluster: Cluster, key: NamespacedName, status: Mapping[str, Any]) -> str | None:
        """The other operator that has given way to this one, by the status; None where there is none any more.

        One that ran before this process did has to write it again, for where its Lease may not be read nothing else shows
        that it runs.
        """
        other = status.get(OTHER)
        if other in {None, self.own}:
            self._alone.add(key)
            return None
        if key not in self._alone or await self.is_gone(cluster, str(other)):
            self._alone.add(key)  # it is written so in this pass
            return None
        return str(other)

    async def is_gone(self, cluster: Cluster, rival: str) -> bool:
        """True if the Lease of a rival is not there, or was not renewed between two looks.

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

    def forget(self, key: NamespacedName) -> None:
        """The service is gone."""
        self._ours.discard(key)
        self._alone.discard(key)


def in_words(rival: str, gives_way: str) -> str:
    """The conflict and its remedy in words, for a condition and an Event."""
    return (
        f"the operators of the namespaces {gives_way} and {rival} both reconcile this service, and that of {gives_way} "
        "leaves it alone: give each its own namespaces (watchNamespaces), or uninstall one"
    )
