"""The real HorizontalPodAutoscaler of the real controller manager, on the metrics API alone."""

from __future__ import annotations

import time

import pytest
from metrics_api_runs import be_engine, values
from octavo_testing.api_client import until

HPA = ("autoscaling/v2", "HorizontalPodAutoscaler")
WAITING = "vllm_num_requests_waiting"


@pytest.fixture
def autoscaled(served, installed, namespace, kubelet, engines, pods_of):
    """The tutorial's manifest over one engine that answers."""
    engine = engines(1)[0]
    [pod] = pods_of("vllm-mistral", 1, engine.port)
    be_engine(kubelet, pod, engine)
    metric = {"metric": {"name": WAITING}, "target": {"type": "AverageValue", "averageValue": "10"}}
    installed.api.create(
        {
            "apiVersion": HPA[0],
            "kind": HPA[1],
            "metadata": {"name": "vllm-hpa", "namespace": namespace},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm-mistral"},
                "minReplicas": 1,
                "maxReplicas": 4,
                "metrics": [{"type": "Pods", "pods": metric}],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            },
        }
    )
    return engine


def replicas(plane, namespace):
    return plane.api.get("apps/v1", "Deployment", "vllm-mistral", namespace)["spec"]["replicas"]


def active(plane, namespace):
    found = plane.api.get(*HPA, "vllm-hpa", namespace).get("status", {}).get("conditions", ())
    return next(((each["status"], each["reason"]) for each in found if each["type"] == "ScalingActive"), None)


def looked_again(plane, namespace, times=4):
    """Waits until the autoscaler, which looks each second, has done so a few times more."""
    time.sleep(times)
    return replicas(plane, namespace)


def test_a_queue_scales_out_and_its_end_scales_in(autoscaled, installed, namespace, kubelet, engines, record_property):
    """35 waiting on one replica, 10 desired for each: 4. Those that load are not taken for idle ones, by which 8 that
    wait would be one replica's work; once all four are idle, one is enough."""
    until(lambda: active(installed, namespace) == ("True", "ValidMetricFound"), 60, "the autoscaler reads the queue")
    assert looked_again(installed, namespace) == 1
    autoscaled.waiting = 35
    began = time.monotonic()
    until(lambda: replicas(installed, namespace) == 4, 30, "four replicas are desired")
    took = time.monotonic() - began
    record_property("queue_to_decision_s", round(took, 2))
    print(f"from the queue to the decision: {took:.1f} s (scraped each 0.5 s, looked at each 1 s)")
    pods = kubelet.pods(namespace, "octavo.dev/service=vllm-mistral", 4)
    made = [pod for pod in pods if not pod.get("status", {}).get("podIP")]
    new = engines(3)
    for pod, engine in zip(made, new, strict=True):
        be_engine(kubelet, pod, engine, ready=False)
    assert looked_again(installed, namespace) == 4  # they load: one queue, four replicas
    assert len(values(installed, namespace, WAITING)) == 1
    autoscaled.waiting = 8
    assert looked_again(installed, namespace, 6) == 4
    autoscaled.waiting = 0
    for pod, engine in zip(made, new, strict=True):
        be_engine(kubelet, pod, engine)
    until(lambda: replicas(installed, namespace) == 1, 40, "one replica is enough")


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["hangs", "fails", "tells nothing"])
def test_what_is_not_known_holds_the_replicas(autoscaled, installed, namespace, kubelet, engines, trouble):
    """One of two replicas is not known: it is taken to have its share, not to be idle. Then neither is known: nothing
    is scaled, and the autoscaler says why."""
    autoscaled.waiting = 20
    until(lambda: replicas(installed, namespace) == 2, 60)
    pods = kubelet.pods(namespace, "octavo.dev/service=vllm-mistral", 2)
    [second] = engines(1)
    second.waiting = 10
    autoscaled.waiting = 10
    be_engine(kubelet, next(pod for pod in pods if not pod.get("status", {}).get("podIP")), second)
    until(lambda: len(values(installed, namespace, WAITING)) == 2, 20)

    def disturb(engine):
        match trouble:
            case "hangs":
                engine.hangs = True
            case "fails":
                engine.status = 503
            case _:
                engine.waiting = None

    disturb(second)
    until(lambda: len(values(installed, namespace, WAITING)) == 1, 20)
    autoscaled.waiting = 9
    until(lambda: list(values(installed, namespace, WAITING).values()) == ["9"], 10)
    assert looked_again(installed, namespace, 5) == 2  # 9 and 0 would be one replica's work
    disturb(autoscaled)
    until(lambda: values(installed, namespace, WAITING) == {}, 20)
    until(lambda: active(installed, namespace) == ("False", "FailedGetPodsMetric"), 20)
    assert looked_again(installed, namespace, 5) == 2
