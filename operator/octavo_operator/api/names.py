"""How an LLMService is named, in queues, logs and metrics."""

from __future__ import annotations

from typing import NamedTuple


class NamespacedName(NamedTuple):
    """Namespace and name of an LLMService: what is reconciled."""

    namespace: str
    name: str

    @property
    def logged(self) -> dict[str, dict[str, str]]:
        """For a log record's `extra`."""
        return {"about": {"namespace": self.namespace, "name": self.name}}
