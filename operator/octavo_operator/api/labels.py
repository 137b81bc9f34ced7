"""The labels by which children are found, and by which their selectors work.

Selectors can't be changed once a Deployment exists, so they use as little as will do: the service and the component.
"""

from __future__ import annotations

from octavo_operator.api.v1alpha1 import GROUP

FIELD_MANAGER = "octavo"
SERVICE = f"{GROUP}/service"
COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"
MANAGED_BY = "app.kubernetes.io/managed-by"

ENGINE, PRELOAD, METRICS = "engine", "preload", "metrics"

OF_CHILDREN = f"{MANAGED_BY}=octavo,{SERVICE}"
"""Selects all children of all services."""


def labels(service: str, component: str = ENGINE) -> dict[str, str]:
    """Labels of a child; `app`, by which kubectl's users select, is on what serves alone."""
    return {
        **({"app": service} if component == ENGINE else {}),
        "app.kubernetes.io/name": "octavo",
        INSTANCE: service,
        MANAGED_BY: "octavo",
        COMPONENT: component,
        SERVICE: service,
    }


def selector(service: str, component: str = ENGINE) -> dict[str, str]:
    """Select a service's pods (or, for METRICS, its headless Service)."""
    return {SERVICE: service, COMPONENT: component}


def selector_text(service: str) -> str:
    """Select the replicas' pods, as the scale subresource and kubectl -l take it."""
    return ",".join(f"{key}={value}" for key, value in selector(service).items())
