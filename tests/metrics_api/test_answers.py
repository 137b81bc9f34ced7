"""Answers to an autoscaler, of several pods in several states."""

from __future__ import annotations

import pytest

from octavo_operator.exposition import Sample
from octavo_operator.metrics_api.catalog import METRICS
from octavo_operator.metrics_api.engines import EnginePod, engine_of
from octavo_operator.metrics_api.selectors import parse
from octavo_operator.metrics_api.series import Moment, Series
from octavo_operator.metrics_api.values import Snapshot, document, of_pod, of_pods, of_service, quantity

WAITING = METRICS["vllm_num_requests_waiting"]
ANY = parse("")


def engine(name, namespace="ns", service="m"):
    return EnginePod(namespace, name, f"uid-{name}", "http://10.0.0.1:8000/metrics", {"octavo.dev/service": service})


def scraped(value, at=0.0):
    series = Series(period=5)
    series.record({"vllm:num_requests_waiting": [Sample((), value)]}, Moment(at, 1_700_000_000 + at))
    return series


def snapshot(values, now=1.0):
    engines = [engine(name) for name in values]
    series = {
        each.key: scraped(value) for each, value in zip(engines, values.values(), strict=True) if value is not None
    }
    return Snapshot(engines, series, now)


def test_a_pod_without_a_value_is_left_out_and_not_counted_as_zero():
    """Such a pod loads, or its scrape failed."""
    rows = of_pods(snapshot({"b": 12, "a": 3, "c": None}), "ns", ANY, WAITING, ANY)
    assert [(row.name, row.value.value) for row in rows] == [("a", 3), ("b", 12)]


def test_pods_are_chosen_by_namespace_labels_and_name():
    """Pods of other namespaces are left out."""
    known = snapshot({"a": 1})
    assert of_pods(known, "other", ANY, WAITING, ANY) == []
    assert of_pods(known, "ns", parse("octavo.dev/service=n"), WAITING, ANY) == []
    assert [row.name for row in of_pod(known, "ns", "a", WAITING, ANY)] == ["a"]
    assert of_pod(known, "ns", "b", WAITING, ANY) == []


def test_a_service_has_the_sum_of_its_engines_and_none_while_one_is_unknown():
    """A part of the sum would look like less load, and shrink the service."""
    [row] = of_service(snapshot({"a": 3, "b": 12}), "ns", "m", WAITING, ANY)
    assert (row.kind, row.name, row.value.value) == ("LLMService", "m", 15)
    assert of_service(snapshot({"a": 3, "b": None}), "ns", "m", WAITING, ANY) == []
    assert of_service(snapshot({}), "ns", "m", WAITING, ANY) == []


def test_both_versions_of_the_list_have_their_own_field_names():
    """The names are those of k8s.io/metrics, where windows and names differ between the versions."""
    [row] = of_pod(snapshot({"a": 3}), "ns", "a", WAITING, ANY)
    described = {"kind": "Pod", "namespace": "ns", "name": "a", "apiVersion": "v1"}
    common = {"describedObject": described, "timestamp": "2023-11-14T22:13:20Z", "value": "3"}
    one = document("v1beta1", WAITING, [row])
    two = document("v1beta2", WAITING, [row])
    assert one["apiVersion"] == "custom.metrics.k8s.io/v1beta1"
    assert one["items"] == [{**common, "metricName": WAITING.name, "selector": None, "window": 0}]
    assert two["items"] == [{**common, "metric": {"name": WAITING.name, "selector": None}, "windowSeconds": 0}]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12, "12"), (0.4375, "438m"), (1.5, "1500m"), (1e6, "1000000"), (0.0001, "0")]
)
def test_values_are_quantities_exact_to_a_thousandth(value, text):
    """Autoscalers reckon in thousandths."""
    assert quantity(value) == text


def pod(phase="Running", ready="True", deleted=False, ip="10.1.2.3", containers=None):
    metadata = {"namespace": "ns", "name": "p", "uid": "u", "labels": {}}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status = {"phase": phase, "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}
    ports = [{"name": "debug", "containerPort": 1}, {"name": "http", "containerPort": 8000}]
    given = containers or [{"name": "sidecar", "ports": [{"containerPort": 9}]}, {"name": "engine", "ports": ports}]
    return {"metadata": metadata, "status": status, "spec": {"containers": given}}


@pytest.mark.parametrize(
    "loading", [pod(phase="Pending"), pod(ready="False"), pod(deleted=True), pod(ip=""), pod(phase="Succeeded")]
)
def test_a_pod_that_loads_or_ends_is_no_engine(loading):
    """Such a pod is not even scraped."""
    assert engine_of(loading) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (pod(), "http://10.1.2.3:8000/metrics"),
        (pod(ip="fd00::1"), "http://[fd00::1]:8000/metrics"),
        (pod(containers=[{"name": "engine", "ports": [{"containerPort": 9000}]}]), "http://10.1.2.3:9000/metrics"),
        (pod(containers=[{"name": "engine"}]), "http://10.1.2.3:8000/metrics"),
    ],
)
def test_an_engine_is_asked_at_its_own_port(given, url):
    """The one called http, whatever else the pod template adds."""
    assert engine_of(given).url == url
