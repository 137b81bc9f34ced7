"""The requests of users to an API server, read from its audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One line a request once it is answered, and one when a watch begins to be; leaders' and nodes' chatter is left out.
POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", "system:kube-scheduler", "system:kube-controller-manager"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `resource` has its subresource after a slash; both are "" for an address that is no resource.

    `created`: it made an object: a server-side apply is a `patch` that needs the right to `create` as well.
    `forbidden`: the user had no right to it.
    """

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int
    uri: str
    created: bool
    forbidden: bool
    time: str
    agent: str


class AuditLog:
    """Reads the log whenever it is asked; the server writes a line before it answers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """A place in the log, to read on from."""
        return self.path.stat().st_size if self.path.exists() else 0

    def asked(self, user: str = "", since: int = 0) -> list[Asked]:
        """The requests, of one user or of all, each once, oldest first."""
        found: dict[str, Asked] = {}
        if not self.path.exists():
            return []
        with self.path.open("rb") as log:
            log.seek(since)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # half written
                entry = json.loads(line)
                if not user or entry["user"]["username"] == user:
                    found[entry["auditID"]] = _asked(entry)
        return list(found.values())


def _asked(entry: dict[str, Any]) -> Asked:
    target = entry.get("objectRef", {})
    subresource = target.get("subresource")
    status = entry.get("responseStatus", {}).get("code", 0)
    return Asked(
        user=entry["user"]["username"],
        verb=entry["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", "") + (f"/{subresource}" if subresource else ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        status=status,
        uri=entry["requestURI"],
        created=entry["verb"] == "create" or (entry["verb"] == "patch" and status == 201),
        forbidden=status == 401 or entry.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid",
        time=entry["requestReceivedTimestamp"],
        agent=entry.get("userAgent", ""),
    )
