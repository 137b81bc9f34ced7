"""The last replica of the metrics API takes its announcement along, also where its namespace is deleted under it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from octavo_operator.api.resources import API_SERVICES
from octavo_operator.errors import ApiError
from octavo_operator.metrics_api import deregistration


@pytest.mark.parametrize(("status", "withdrawn"), [(403, True), (500, False)])
async def test_where_the_namespace_goes_and_its_role_with_it_the_announcement_goes_too(monkeypatch, status, withdrawn):
    """An API that is announced and that no pod serves holds up the end of every namespace, this one's too."""
    monkeypatch.setattr(deregistration, "SETTLE_S", 0)
    deleted = []

    async def get(resource, namespace, name):
        if resource is not API_SERVICES:
            raise ApiError("GET", name, status, {})
        labels = {"app.kubernetes.io/managed-by": "octavo"}
        service = {"namespace": "octavo-system", "name": "octavo-metrics-api", "port": 443}
        return {"metadata": {"name": name, "labels": labels}, "spec": {"service": service}}

    async def refuse(*_, **__):
        raise ApiError("GET", "endpointslices", status, {})

    async def delete(resource, live):
        deleted.append(live["metadata"]["name"])

    cluster = SimpleNamespace(get=get, list=refuse, delete=delete)
    await deregistration.leave(cluster, "octavo-system", "pod")
    assert bool(deleted) == withdrawn
