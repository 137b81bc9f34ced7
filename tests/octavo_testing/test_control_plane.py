"""The harness itself: what is started is Kubernetes, RBAC counts, and what was asked can be read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from octavo_testing.api_client import ApiError, until
from octavo_testing.control_plane import ControlPlane
from octavo_testing.kubernetes_binaries import binaries

PAUSE = {
    "name": "pause",
    "image": "example.org/pause:1",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def pod_template(**container) -> dict:
    return {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [PAUSE | container]}}


def deployment(namespace: str, replicas: int = 2, **container) -> dict:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "x"}},
            "template": pod_template(**container),
        },
    }


def test_the_server_calls_itself_what_was_built(control_plane):
    """The version is not `v0.0.0-master`, which a Kubernetes built without its own scripts has, and clients dislike."""
    assert control_plane.pids
    printed = subprocess.run([binaries() / "kube-apiserver", "--version"], capture_output=True, text=True, check=True)
    version = printed.stdout.split()[-1]
    assert re.fullmatch(r"v1\.\d+\.\d+", version)
    assert f"Server Version: {version}" in control_plane.kubectl("version")


def test_a_deployment_has_pods_that_stay_pending_without_a_node(control_plane, namespace):
    control_plane.api.apply(deployment(namespace))
    pods = until(lambda: control_plane.api.list("v1", "Pod", namespace, "app=x") or None)
    assert {pod["status"]["phase"] for pod in pods} == {"Pending"}


def test_pod_security_refuses_what_is_not_restricted(control_plane, namespace):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        control_plane.api.create(pod | {"spec": {"containers": [{"name": "c", "image": "x"}]}})


def test_a_service_account_may_do_what_its_role_says_and_nothing_else(control_plane, namespace):
    """RBAC is on, and the audit log has what was done, what was refused and what an apply needs."""
    control_plane.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    rights = ["--verb=get,patch,create", "--resource=configmaps"]
    control_plane.kubectl("create", "role", "robot", "-n", namespace, *rights)
    subject = f"--serviceaccount={namespace}:robot"
    control_plane.kubectl("create", "rolebinding", "robot", "-n", namespace, "--role=robot", subject)
    user = f"{namespace}/robot"
    robot, since = control_plane.api_as(user), control_plane.audit.mark()
    robot.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": namespace}})
    robot.get("v1", "ConfigMap", "c", namespace)
    with pytest.raises(ApiError, match="secrets is forbidden") as refused:
        robot.list("v1", "Secret", namespace)
    assert refused.value.status == 403
    assert control_plane.verbs_used(user, since) == {("", "configmaps", verb) for verb in ("create", "get", "patch")}
    assert control_plane.denied(user, since) == {("", "secrets", "list")}


def test_a_watch_is_in_the_audit_log_while_it_goes_on(control_plane, namespace):
    since = control_plane.audit.mark()
    with control_plane.api.watching("v1", "ConfigMap", namespace) as events:
        assert next(events)["type"] == "ADDED"  # kube-root-ca.crt
        assert ("", "configmaps", "watch") in control_plane.verbs_used("admin", since)


def test_a_service_account_without_a_role_is_refused(control_plane, namespace):
    user = f"{namespace}/default"
    assert "forbidden" in control_plane.kubectl("get", "pods", "-n", namespace, user=user, check=False)


def test_the_dynamic_client_works(control_plane, namespace):
    client = control_plane.client()
    try:
        maps = client.resources.get(api_version="v1", kind="ConfigMap")
        maps.create(body={"metadata": {"name": "c"}, "data": {"a": "b"}}, namespace=namespace)
        assert maps.get(name="c", namespace=namespace).data["a"] == "b"
    finally:
        client.client.close()


@pytest.mark.slow
def test_what_was_stored_outlives_a_restart_of_the_api_server(control_plane, namespace):
    """While it is stopped connections are refused, and its address stays the same."""
    control_plane.api.apply(deployment(namespace, replicas=1))
    server = control_plane.server
    with control_plane.api_server_stopped(), pytest.raises(OSError):
        control_plane.api.get("apps/v1", "Deployment", "d", namespace)
    assert control_plane.server == server
    assert control_plane.api.get("apps/v1", "Deployment", "d", namespace)
    control_plane.api.patch("apps/v1", "Deployment", "d", namespace, {"spec": {"replicas": 2}})
    until(lambda: len(control_plane.api.list("v1", "Pod", namespace, "app=x")) == 2, 30, "controllers go on")


def test_a_paused_api_server_answers_nothing(control_plane, namespace):
    api = control_plane.api
    with control_plane.api_server_paused(), pytest.raises(TimeoutError):
        api.request("GET", "/readyz", timeout=0.5)
    assert api.request("GET", "/readyz") == "ok"


@pytest.mark.slow
def test_nothing_is_left_when_the_tests_are_killed(control_plane, tmp_path):
    """SIGKILL leaves no chance to tidy up: the kernel ends the children."""
    if not control_plane.own:
        control_plane.pids  # noqa: B018 - says why and skips
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process of its parent's death")
    script = (
        "import sys, time; from pathlib import Path; from octavo_testing.control_plane import ControlPlane\n"
        "plane = ControlPlane(Path(sys.argv[1])); plane.start(); print(*plane.pids.values(), flush=True); time.sleep(99)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "testing")}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=env, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 4
        process.send_signal(signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), 10, f"{pids} end")


@pytest.mark.slow
def test_what_does_not_start_is_reported_in_its_own_words(control_plane, tmp_path, monkeypatch):
    monkeypatch.setattr(ControlPlane, "_controller_manager", lambda _: ["--no-such-flag"])
    with pytest.raises(AssertionError, match=r"kube-controller-manager has ended:(.|\n)*no-such-flag"):
        ControlPlane(tmp_path).start()
