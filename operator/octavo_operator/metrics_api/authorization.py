"""Authorizes a request by a SubjectAccessReview, whose answer is kept for seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo_operator.api.resources import ACCESS_REVIEWS
from octavo_operator.cluster.client import Cluster
from octavo_operator.metrics_api.authentication import User

KEPT_S = 10.0
KEPT = 4096
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """A `get` of a metric of an object, or (with `path` alone) of a document."""

    path: str
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    metric: str = ""

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the SubjectAccessReview; a metric is a subresource."""
        if not self.resource:
            return {"nonResourceAttributes": {"path": self.path, "verb": "get"}}
        return {
            "resourceAttributes": {
                "verb": "get",
                "group": "custom.metrics.k8s.io",
                "version": self.version,
                "namespace": self.namespace,
                "resource": self.resource,
                "name": self.name,
                "subresource": self.metric,
            }
        }


class Authorizer:
    """Creates one review for each user and attempt, and keeps its answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[User, AccessRequest], tuple[float, str | None]] = {}

    async def refusal(self, user: User, attempt: AccessRequest) -> str | None:
        """The reason why a request is denied; None where it is allowed. Raises ApiError or UnreachableError without a
        review.
        """
        if MASTERS in user.groups:
            return None
        key, now = (user, attempt), time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] > KEPT_S:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[key] = (now, await self._ask(user, attempt))
        return known[1]

    async def _ask(self, user: User, attempt: AccessRequest) -> str | None:
        who = {"user": user.name, "groups": list(user.groups), "uid": user.uid}
        extra = {key: list(values) for key, values in user.extra.items()}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**who, "extra": extra, **attempt.attributes()},
        }
        status = (await self._cluster.create(ACCESS_REVIEWS, review)).get("status", {})
        if status.get("allowed") and not status.get("denied"):
            return None
        return str(status.get("reason") or "no rule allows it")
