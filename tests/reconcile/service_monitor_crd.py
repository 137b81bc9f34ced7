"""The definition of ServiceMonitors, as small as will do: prometheus-operator is not installed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAME = "servicemonitors.monitoring.coreos.com"
SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": NAME},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
        "scope": "Namespaced",
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}],
    },
}
MONITOR = ("monitoring.coreos.com/v1", "ServiceMonitor")


@contextmanager
def service_monitors(plane: Any) -> Iterator[None]:
    """A context within which the API server serves ServiceMonitors."""
    plane.api.create(DEFINITION)
    try:
        plane.wait_established(NAME)
        yield
    finally:
        plane.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", NAME)
