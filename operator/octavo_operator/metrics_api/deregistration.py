"""The orderly end: who is the last to serve takes the announcement away."""

from __future__ import annotations

import asyncio
import logging

from octavo_operator.cluster.client import Cluster
from octavo_operator.errors import ApiError, OperatorError
from octavo_operator.metrics_api.announcement import NAMES, serving, withdraw

SETTLE_S = 5.0  # until the endpoints have forgotten who ends, others that end at the same moment included

log = logging.getLogger(__name__)


async def leave(cluster: Cluster, namespace: str, pod: str) -> None:
    """Goes on serving until no request comes any more, and withdraws the APIServices if no other pod serves."""
    await asyncio.sleep(SETTLE_S)
    try:
        others = [name for name in await _serving(cluster, namespace) if name != pod]
        if not others:
            await withdraw(cluster, namespace)
    except OperatorError as error:
        # On an uninstall the rights are gone by now, and the garbage collector removes what their ClusterRole owned.
        log.warning(
            "whether this was the last replica is not known (%s); if so: kubectl delete apiservice %s",
            error,
            " ".join(NAMES),
        )


async def _serving(cluster: Cluster, namespace: str) -> tuple[str, ...]:
    """The pods that serve; none where that may no longer be asked: the namespace goes, and its Role before the pods.
    What
    stayed announced would then delay the end of every namespace, this one's too."""
    try:
        return tuple((await serving(cluster, namespace)).pods)
    except ApiError as error:
        if error.status != 403:
            raise
        return ()
