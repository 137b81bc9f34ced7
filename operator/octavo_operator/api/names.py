"""Names: of an LLMService in queues, logs and metrics, and of the children that do not have the service's own."""

from __future__ import annotations

from typing import NamedTuple


class NamespacedName(NamedTuple):
    """Namespace and name of an LLMService: what is reconciled."""

    namespace: str
    name: str

    @property
    def logged(self) -> dict[str, dict[str, str]]:
        """The `extra` of a log record."""
        return {"about": {"namespace": self.namespace, "name": self.name}}


def cache_claim(service: str) -> str:
    """The PersistentVolumeClaim that keeps the model."""
    return f"{service}-cache"


def preload_job(service: str) -> str:
    """The Job that downloads the model."""
    return f"{service}-preload"


def headless_service(service: str) -> str:
    """The Service over all pods, for scraping."""
    return f"{service}-pods"
