"""Prometheus' operator may be installed after ours, and removed before."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import ApiError, until
from octavo_testing.operator_runs import service, settled
from service_monitor_crd import MONITOR, service_monitors


def monitor(plane, namespace):
    try:
        return plane.api.find(*MONITOR, "s", namespace)
    except ApiError:
        return None  # its kind is not served yet


@pytest.mark.slow
def test_a_service_monitor_is_made_and_kept_once_its_kind_is_known(installed, operator, namespace):
    """Within seconds of the definition, without an event of the service's; afterwards all goes on without it."""
    installed.api.create(service("s", namespace))
    settled(installed, operator, namespace)
    with service_monitors(installed):
        made = until(lambda: monitor(installed, namespace), 30, "the ServiceMonitor is made")
        assert made["spec"]["endpoints"]
        operator.wait_ready()
        installed.api.patch(*MONITOR, "s", namespace, {"spec": {"endpoints": []}})
        until(lambda: monitor(installed, namespace)["spec"]["endpoints"] == made["spec"]["endpoints"], 10, "it is kept")
    until(lambda: "servicemonitors.monitoring.coreos.com" not in operator.health["watchers"], 30, "none is watched")
    operator.wait_ready()
    installed.api.create(service("next", namespace))
    until(lambda: installed.api.find("apps/v1", "Deployment", "next", namespace), 20)
