"""kopf's decorators, and nothing else: each event of a service or of a child makes its service due.

Only `on.event`: it keeps no annotations on objects and sets no finalizer. Of what happened only the
kind of object is passed on, for the reconcile reads the rest itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import kopf

from octavo_operator.api.labels import OF_CHILDREN, SERVICE
from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import SERVICES, Resource
from octavo_operator.controller.work_queue import Seen

Due = Callable[[Seen], None]
"""Called from kopf's thread."""


def register(registry: kopf.OperatorRegistry, watched: Iterable[Resource], due: Due) -> None:
    """A handler for the services, and one for each kind of child; pods count as children."""

    @kopf.on.event(SERVICES.group, SERVICES.api_version.rpartition("/")[2], SERVICES.plural, registry=registry)
    async def of_service(*, namespace: str | None, name: str, meta: Mapping[str, Any], **_: Any) -> None:
        due(Seen(NamespacedName(namespace or "", name), int(meta.get("generation", 0))))

    async def of_child(*, namespace: str | None, labels: Mapping[str, str], param: Any = "", **_: Any) -> None:
        due(Seen(NamespacedName(namespace or "", labels[SERVICE]), kind=param))

    for resource in watched:
        version = resource.api_version.rpartition("/")[2]
        kopf.on.event(
            resource.group,
            version,
            resource.plural,
            registry=registry,
            labels={SERVICE: kopf.PRESENT},
            id=resource.kind,
            param=resource.kind,
        )(of_child)


class NoHistory(kopf.DiffBaseStorage):
    """Keeps no former state: kopf would copy each object several times over to find out what has changed."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return cast("kopf.BodyEssence", {})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


def select(settings: kopf.OperatorSettings, watched: Iterable[Resource]) -> None:
    """The API server sends our children alone, not every pod of the cluster."""
    for resource in watched:
        selector = (resource.group, resource.api_version.rpartition("/")[2], resource.plural)
        settings.watching.label_selectors[selector] = OF_CHILDREN
