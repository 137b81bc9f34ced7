"""Each fault is seen by a client as the real one would be, and is over when it is healed."""

from __future__ import annotations

import json
import threading
import time
from http.client import HTTPException

import pytest
from octavo_testing.api_client import ApiClient, ApiError, until
from octavo_testing.fault_proxy import FaultProxy, verb_of

BROKEN = (OSError, HTTPException)


@pytest.fixture
def proxy(control_plane):
    with FaultProxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
def through(control_plane, proxy):
    """A client as an administrator, through the proxy."""
    client = ApiClient(control_plane.endpoint("admin", proxy.server))
    yield client
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "query", "verb"),
    [
        ("GET", "/api/v1/pods", {}, "list"),
        ("GET", "/api/v1/namespaces", {}, "list"),
        ("GET", "/api/v1/namespaces/a", {}, "get"),
        ("GET", "/api/v1/namespaces/a/pods", {"watch": "true"}, "watch"),
        ("GET", "/apis/octavo.dev/v1alpha1/llms", {"watch": "1"}, "watch"),
        ("GET", "/apis/octavo.dev/v1alpha1/namespaces/a/llms/b", {}, "get"),
        ("PATCH", "/apis/octavo.dev/v1alpha1/namespaces/a/llms/b/status", {}, "patch"),
        ("DELETE", "/api/v1/namespaces/a/pods", {}, "deletecollection"),
        ("DELETE", "/api/v1/namespaces/a/pods/b", {}, "delete"),
        ("POST", "/api/v1/namespaces/a/pods", {}, "create"),
        ("PUT", "/api/v1/namespaces/a/pods/b", {}, "update"),
        ("GET", "/readyz", {}, "get"),
        ("GET", "/apis", {}, "get"),
    ],
)
def test_verbs_are_named_as_rbac_names_them(method, path, query, verb):
    assert verb_of(method, path, query) == verb


def test_without_a_fault_everything_passes(control_plane, namespace, proxy, through):
    """Requests of another user pass as well, and that user's rights count."""
    through.create(config_map(namespace, "a"))
    assert through.get("v1", "ConfigMap", "a", namespace)["data"] == {"k": "v"}
    control_plane.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    robot = ApiClient(control_plane.endpoint(f"{namespace}/robot", proxy.server))
    with pytest.raises(ApiError, match="forbidden"):
        robot.list("v1", "ConfigMap", namespace)
    robot.close()
    assert [(seen.verb, seen.status) for seen in proxy.requests if "configmaps" in seen.path] == [
        ("create", 201),
        ("get", 200),
        ("list", 403),
    ]


def test_a_verb_fails_until_it_is_healed(namespace, proxy, through):
    proxy.fail(503, verb="list", path="/configmaps")
    for _ in range(2):
        with pytest.raises(ApiError, match="503 ServiceUnavailable"):
            through.list("v1", "ConfigMap", namespace)
    assert through.list("v1", "Secret", namespace) == []
    assert through.get("v1", "ConfigMap", "kube-root-ca.crt", namespace)
    proxy.heal()
    assert through.list("v1", "ConfigMap", namespace)


def test_a_fault_ends_by_itself_after_its_seconds_or_its_times(namespace, proxy, through):
    proxy.fail(403, verb="list", seconds=0.3)
    with pytest.raises(ApiError, match="403 Forbidden"):
        through.list("v1", "ConfigMap", namespace)
    time.sleep(0.35)
    assert through.list("v1", "ConfigMap", namespace)
    proxy.fail(500, verb="list", times=1)
    with pytest.raises(ApiError, match="500"):
        through.list("v1", "ConfigMap", namespace)
    assert through.list("v1", "ConfigMap", namespace)


@pytest.mark.parametrize("code", [500, 504, 410])
def test_an_open_watch_ends_with_an_error_event(code, namespace, proxy, through):
    """The next watch is not disturbed."""
    with through.watching("v1", "ConfigMap", namespace) as events:
        assert next(events)["type"] == "ADDED"
        proxy.watch_error(code, path="/configmaps")
        error = next(event for event in events if event["type"] == "ERROR")
        assert error["object"]["code"] == code
        assert list(events) == []
    with through.watching("v1", "ConfigMap", namespace) as events:
        assert next(events)["type"] == "ADDED"


def test_watches_to_come_end_with_an_error_event_while_it_lasts(namespace, proxy, through):
    proxy.watch_error(500, path="/configmaps", seconds=None)
    with through.watching("v1", "ConfigMap", namespace) as events:
        assert [event["type"] for event in events] == ["ERROR"]
    proxy.heal()
    with through.watching("v1", "ConfigMap", namespace) as events:
        assert next(events)["type"] == "ADDED"


def test_a_reset_breaks_open_watches_and_new_requests(namespace, proxy, through):
    with through.watching("v1", "ConfigMap", namespace) as events:
        next(events)
        proxy.reset()
        with pytest.raises(BROKEN):
            list(events)
    with pytest.raises(BROKEN):
        through.list("v1", "ConfigMap", namespace)
    proxy.heal()
    assert through.list("v1", "ConfigMap", namespace)


def test_half_an_event_arrives_before_its_connection_breaks(namespace, proxy, through):
    """Once, and the next watch has it whole."""
    through.create(config_map(namespace, "a"))
    proxy.halve_event("/configmaps")
    with through.watching("v1", "ConfigMap", namespace) as events, pytest.raises((*BROKEN, json.JSONDecodeError)):
        next(events)
    with through.watching("v1", "ConfigMap", namespace) as events:
        assert {next(events)["object"]["metadata"]["name"] for _ in range(2)} == {"a", "kube-root-ca.crt"}


def test_a_delay_comes_before_the_answer(namespace, proxy, through):
    through.list("v1", "ConfigMap", namespace)
    proxy.delay(0.3, verb="list")
    started = time.monotonic()
    assert through.list("v1", "ConfigMap", namespace)
    assert time.monotonic() - started >= 0.3


def test_what_hangs_is_not_answered_and_a_watch_falls_silent(control_plane, namespace, proxy, through):
    seen = []
    with through.watching("v1", "ConfigMap", namespace, timeout=0.5) as events:
        next(events)
        proxy.hang()
        control_plane.api.create(config_map(namespace, "unseen"))
        with pytest.raises(TimeoutError):
            seen.extend(event["object"]["metadata"]["name"] for event in events)
    assert "unseen" not in seen
    with pytest.raises(TimeoutError):
        through.list("v1", "ConfigMap", namespace, timeout=0.5)
    proxy.heal()
    assert through.list("v1", "ConfigMap", namespace)


def test_a_watch_goes_on_line_by_line(control_plane, namespace, proxy, through):
    """Each event arrives when it happens, not when the watch ends."""
    with through.watching("v1", "ConfigMap", namespace) as events:
        next(events)
        assert proxy.open_watches("/configmaps") == 1
        threading.Timer(0.1, control_plane.api.create, [config_map(namespace, "b")]).start()
        assert next(e for e in events if e["type"] == "ADDED")["object"]["metadata"]["name"] == "b"
    until(lambda: proxy.open_watches("/configmaps") == 0, 5, "the proxy sees that the client has gone")


@pytest.mark.slow
def test_a_stopped_api_server_looks_stopped_through_the_proxy(control_plane, namespace, proxy, through):
    with control_plane.api_server_stopped(), pytest.raises(BROKEN):
        through.list("v1", "ConfigMap", namespace)
    assert through.list("v1", "ConfigMap", namespace)


def test_kubectl_goes_through_it(control_plane, namespace, proxy):
    """A kubeconfig of the proxy's verifies its certificate."""
    proxy.fail(403, verb="list", path="/pods", times=1)
    arguments = ["get", "pods", "-n", namespace, f"--kubeconfig={proxy.kubeconfig()}"]
    assert "injected by a test" in control_plane.kubectl(*arguments, check=False)
    assert "No resources found" in control_plane.kubectl(*arguments)
    assert json.loads(proxy.kubeconfig().read_text())["clusters"][0]["cluster"]["server"] == proxy.server


def config_map(namespace: str, name: str) -> dict:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": "v"}}
