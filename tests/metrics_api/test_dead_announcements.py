"""A dead announcement is withdrawn despite another fault, and also if another installation announced it."""

from __future__ import annotations

import time

import pytest
from metrics_api_runs import APISERVICES, NAMES, NAMESPACE, SERVICE, available, serving
from octavo_testing.api_client import until

from octavo_operator.api.metrics_source import UNKNOWN
from octavo_operator.api.resources import API_SERVICES, ENDPOINT_SLICES, SECRETS
from octavo_operator.errors import ApiError
from octavo_operator.metrics_api.announcement import UNREACHED_S, Announcement, is_ours


def api_service(name, namespace=NAMESPACE, available="False", reason="FailedDiscoveryCheck", labels=None):
    condition = {"type": "Available", "status": available, "reason": reason, "message": "no answer"}
    return {
        "apiVersion": APISERVICES[0],
        "kind": APISERVICES[1],
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": labels or {}},
        "spec": {"service": {"namespace": namespace, "name": SERVICE}},
        "status": {"conditions": [condition]},
    }


class Server:
    """An operator whose API server serves endpoints, and refuses to have the certificate's Secret read."""

    def __init__(self):
        self.announced = {name: api_service(name) for name in NAMES}

    async def get(self, resource, _, name):
        if resource == SECRETS:
            raise ApiError("GET", "secrets", 403, {"message": "forbidden"})
        assert resource == API_SERVICES
        return self.announced.get(name)

    async def list(self, resource, *_):
        assert resource == ENDPOINT_SLICES
        endpoint = {"conditions": {"ready": True}, "targetRef": {"name": "octavo-operator-1"}}
        return [{"endpoints": [endpoint], "ports": [{"port": 10250}]}]

    async def delete(self, _, live):
        del self.announced[live["metadata"]["name"]]


async def test_a_certificate_that_can_not_be_kept_does_not_keep_a_dead_one_announced():
    """The Secret may not be read: that is an error, and comes after what hurts the whole cluster is gone."""
    server, changes = Server(), []
    announcement = Announcement(server, NAMESPACE, UNKNOWN, lambda: changes.append(1))
    with pytest.raises(ApiError):
        await announcement.keep()
    assert server.announced, "it is given some time"
    announcement._unreached = time.monotonic() - UNREACHED_S - 1
    with pytest.raises(ApiError):
        await announcement.keep()
    assert server.announced == {}
    assert announcement.source.reason == "MetricsApiUnreachable"
    assert "port 10250" in announcement.source.remedy
    assert changes == [1]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"namespace": NAMESPACE}, True),
        (
            {"namespace": "gone", "reason": "ServiceNotFound", "labels": {"app.kubernetes.io/managed-by": "octavo"}},
            True,
        ),
        ({"namespace": "other", "available": "True", "labels": {"app.kubernetes.io/managed-by": "octavo"}}, False),
        ({"namespace": "other", "labels": {"app.kubernetes.io/managed-by": "octavo"}}, False),
        ({"namespace": "gone", "reason": "ServiceNotFound"}, False),
    ],
)
def test_another_installations_is_ours_only_once_its_service_is_gone(given, ours):
    assert is_ours(api_service(NAMES[0], **given), NAMESPACE) is ours


@pytest.mark.slow
def test_what_an_installation_that_is_gone_left_behind_is_taken_over(installed, tmp_path):
    """Its namespace was deleted without an uninstall: no namespace of the cluster could be deleted ever again."""
    for name in NAMES:
        version, _, group = name.partition(".")
        spec = {
            "group": group,
            "version": version,
            "service": {"namespace": "former-octavo", "name": SERVICE, "port": 443},
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        labels = {"app.kubernetes.io/managed-by": "octavo"}
        body = {"apiVersion": APISERVICES[0], "kind": APISERVICES[1], "metadata": {"name": name, "labels": labels}}
        installed.api.create({**body, "spec": spec})
    until(lambda: not any(available(installed, name) for name in NAMES), 30, "it is dead")
    with serving(installed, tmp_path):
        found = installed.api.get(*APISERVICES, NAMES[0])
        assert found["spec"]["service"]["namespace"] == NAMESPACE
