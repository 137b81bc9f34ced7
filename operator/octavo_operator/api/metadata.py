"""`metadata`: ObjectMeta, of which only a part is ours."""

from __future__ import annotations

from typing import Any

from octavo_operator.api.base import Label, ServiceName, Strict


class Metadata(Strict):
    """The metadata that Kubernetes keeps of every object. Fields that the API server writes are read and left alone."""

    name: ServiceName
    """Name of the service, and of its children."""
    namespace: Label = "default"
    """Namespace."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations; octavo.dev/ignore-fit: "true" overrides a refusal for lack of memory, octavo.dev/model-config holds
    the model's config.json for an operator that does not ask a hub, and octavo.dev/upgrade takes an upgrade that the
    condition UpToDate offers."""
    uid: str | None = None
    """Written by the API server."""
    resource_version: str | None = None
    """Written by the API server."""
    generation: int | None = None
    """Written by the API server."""
    creation_timestamp: str | None = None
    """Written by the API server."""
    deletion_timestamp: str | None = None
    """Written by the API server."""
    deletion_grace_period_seconds: int | None = None
    """Written by the API server."""
    finalizers: list[str] = []
    """Other controllers' finalizers; ours sets none."""
    owner_references: list[dict[str, Any]] = []
    """Owners of this object."""
    managed_fields: list[dict[str, Any]] = []
    """Written by the API server."""
    generate_name: str | None = None
    """Written by the API server."""
    self_link: str | None = None
    """Written by old API servers."""
