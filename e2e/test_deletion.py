"""Deletion of anything, in any order, leaves nothing behind, and nothing hangs."""

from __future__ import annotations

import pytest

from e2e.world import SERVICE_LABEL, SYSTEM

KINDS = (
    "deployments,replicasets,pods,services,endpointslices,horizontalpodautoscalers,poddisruptionbudgets,"
    "persistentvolumeclaims,jobs,networkpolicies"
)
GONE_S = 120.0
WHOLE = {
    "cache": {"size": "1Gi", "accessMode": "ReadWriteOnce"},
    "autoscaling": {"minReplicas": 1, "maxReplicas": 2},
    "networkPolicy": {"enabled": True},
}


def left(world, namespace):
    """The objects that are left of services in the namespace."""
    return world.kubectl("-n", namespace, "get", KINDS, "-l", SERVICE_LABEL, "-o", "name", "--ignore-not-found").split()


def serve(world, namespace, name="whole"):
    """A service with every child that there is."""
    world.apply(world.service(name, namespace, **WHOLE))
    world.wait_ready(name, namespace)
    kinds = {each.partition("/")[0].partition(".")[0] for each in left(world, namespace)}
    assert {"deployment", "service", "horizontalpodautoscaler", "persistentvolumeclaim", "job"} <= kinds


def delete_namespace(world, name):
    """The seconds until a namespace is gone."""
    world.kubectl("delete", "namespace", name, "--wait=false")
    return world.until(
        lambda: world.get("namespace", name) is None,
        GONE_S,
        lambda: f"it stays: {world.get('namespace', name)['status']}",
    )


@pytest.mark.short
def test_a_deleted_service_leaves_nothing(octavo, namespace, record_property):
    """`kubectl delete llms`: every child goes, the volume too"""
    serve(octavo, namespace)
    octavo.kubectl("-n", namespace, "delete", "llms", "whole", "--timeout=30s")
    took = octavo.until(lambda: not left(octavo, namespace), GONE_S, lambda: f"left: {left(octavo, namespace)}")
    record_property("gone after", f"{took:.0f} s")


@pytest.mark.short
def test_a_deleted_namespace_goes(octavo, namespace, record_property):
    """`kubectl delete namespace` with a service in it: no finalizer is stuck"""
    serve(octavo, namespace)
    record_property("gone after", f"{delete_namespace(octavo, namespace):.0f} s")


def test_without_the_operator_a_namespace_goes_and_what_serves_goes_on(octavo, namespace, traffic, record_property):
    """The operator scaled to zero: services serve, and namespaces can be deleted, with services in them or without"""
    serve(octavo, namespace)
    lives = octavo.lives("whole", namespace)
    other = f"{namespace[:50]}-other"
    octavo.kubectl("create", "namespace", other)
    octavo.kubectl("-n", SYSTEM, "scale", "deployment/octavo-operator", "--replicas=0")
    try:
        octavo.until(lambda: not octavo.operator_pods(), 90, "the operator stays")
        record_property("an empty one gone after", f"{delete_namespace(octavo, other):.0f} s")
        with traffic("whole", namespace) as driver:
            driver.wait_for(200, 60)
            assert driver.stop().failures == []
        assert octavo.lives("whole", namespace) == lives
        record_property("with a service after", f"{delete_namespace(octavo, namespace):.0f} s")
    finally:
        octavo.kubectl("-n", SYSTEM, "scale", "deployment/octavo-operator", "--replicas=2")
        octavo.wait_operator()


def test_a_service_outlives_the_operator_and_goes_without_it(octavo, namespace, helm, install, record_property):
    """`helm uninstall`: services serve on, deleting one still removes its children; a new install finds what is there"""
    serve(octavo, namespace, "first")
    serve(octavo, namespace, "second")
    lives = octavo.lives("second", namespace)
    helm("uninstall", "octavo", "-n", SYSTEM, "--wait")
    try:
        assert "custom.metrics.k8s.io" not in octavo.kubectl("get", "apiservices", "-o", "name")
        assert octavo.get("crd", "llmservices.octavo.dev") is not None, "the definition is kept, and so are services"
        octavo.kubectl("-n", namespace, "delete", "llms", "first", "--timeout=30s")
        octavo.until(lambda: not octavo.replicas("first", namespace), GONE_S, "its replicas stay")
        assert octavo.lives("second", namespace) == lives
    finally:
        install()
    octavo.wait_ready("second", namespace)
    assert octavo.lives("second", namespace) == lives, "the new operator restarts nothing"
    record_property("a namespace after it", f"{delete_namespace(octavo, namespace):.0f} s")
