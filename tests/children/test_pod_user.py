"""The user as whom pods run."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import service

from octavo_operator.api.observed import Observed
from octavo_operator.children import render
from octavo_operator.planner import plan
from octavo_operator.settings import Settings

AUTO = {"minReplicas": 2, "maxReplicas": 5}


@pytest.mark.parametrize("spec", [{}, {"cache": {}}, {"replicas": 2}, {"autoscaling": AUTO}, {"suspend": True}])
def test_where_the_platform_assigns_users_no_pod_names_one(spec):
    """Neither a replica's nor the download's; all else that Pod Security asks for stays."""
    made = plan(service(**spec), Observed(), Settings(assigned_users=True))
    children = render(made)
    workloads = [each for each in children if each["kind"] in {"Deployment", "Job"}]
    assert len(workloads) == 1 + ("cache" in spec)
    for each in workloads:
        security = each["spec"]["template"]["spec"]["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & security.keys()
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
