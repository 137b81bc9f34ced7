"""Replicas follow the queue, with nothing else installed, and no request is lost when they go."""

from __future__ import annotations

import json
import threading
import time

import pytest

from e2e.conftest import FOUND

NAME = "scaled"
WITHIN_S = 60  # of the queue's forming, three replicas are desired
MOST = 3
QUEUE = 2


def recorder(world, namespace, stop):
    """Replicas and queue, twice a second until stopped; in a thread."""
    samples = []

    def record():
        while not stop.is_set():
            deployment = world.get("deployment", NAME, namespace) or {"spec": {}, "status": {}}
            raw = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/vllm_num_requests_waiting"
            said = world.kubectl("get", "--raw", raw, check=False)
            queue = sum(_value(item) for item in json.loads(said)["items"]) if said.startswith("{") else None
            samples.append(
                {
                    "at": time.time(),
                    "desired": deployment["spec"].get("replicas", 0),
                    "ready": deployment["status"].get("readyReplicas", 0),
                    "queue": queue,
                }
            )
            time.sleep(0.5)

    thread = threading.Thread(target=record)
    thread.start()
    return samples, thread


def _value(item):
    text = str(item["value"])
    return int(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


@pytest.mark.short
def test_replicas_follow_the_queue(octavo, shared_namespace, traffic, record_property):
    """A queue makes it 1 → 3 replicas within 60 s, and after it 3 → 1, without a failed request"""
    namespace = shared_namespace
    scaling = {
        "minReplicas": 1,
        "maxReplicas": MOST,
        "targetQueueDepth": QUEUE,
        # In place of five minutes: the suite has no time for the lull.
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 20, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}},
    }  # fmt: skip
    octavo.apply(octavo.service(NAME, namespace, autoscaling=scaling, engine={"maxNumSeqs": 2}))
    octavo.wait_ready(NAME, namespace)
    stop = threading.Event()
    samples, thread = recorder(octavo, namespace, stop)
    try:
        with traffic(NAME, namespace, clients=2, max_tokens=8, pause=0.5) as steady:
            with traffic(NAME, namespace, clients=24, max_tokens=48) as crowd:
                octavo.until(
                    lambda: samples and samples[-1]["desired"] == MOST, 120, lambda: octavo.state_of(namespace)
                )
                octavo.until(lambda: samples[-1]["ready"] == MOST, 240, lambda: octavo.state_of(namespace))
                octavo.until(lambda: _all_answer(octavo, namespace), 120, "a new replica is asked nothing")
                heavy = crowd.stop()
            octavo.until(lambda: samples[-1]["desired"] == 1, 300, lambda: octavo.state_of(namespace))
            octavo.until(lambda: len(octavo.replicas(NAME, namespace)) == 1, 120, "replicas stay")
            time.sleep(15)
            light = steady.stop()
    finally:
        stop.set()
        thread.join()
    assert heavy.failures == light.failures == []
    formed = next(each["at"] for each in samples if (each["queue"] or 0) > QUEUE)
    decided = next(each["at"] for each in samples if each["desired"] == MOST)
    ready = next(each["at"] for each in samples if each["ready"] == MOST)
    record_property("3 desired after", f"{decided - formed:.0f} s")
    record_property("3 ready after", f"{ready - formed:.0f} s")
    record_property("traffic", f"{heavy.requests + light.requests} requests, 0 failed")
    FOUND.mkdir(exist_ok=True)
    failed = [each["at"] for each in (*heavy.failures, *light.failures)]
    run = {"formed": formed, "samples": samples, "failed": failed, "requests": heavy.requests + light.requests}
    (FOUND / "scaling.json").write_text(json.dumps(run))
    assert decided - formed <= WITHIN_S


def _all_answer(world, namespace):
    pods = world.replicas(NAME, namespace)
    return len(pods) == MOST and all(world.metric(pod, "vllm:request_success_total") > 0 for pod in pods)


def test_the_metrics_api_gives_both_names(octavo, shared_namespace):
    """custom.metrics.k8s.io serves the tutorial's names and Octavo's own, per pod"""
    octavo.apply(octavo.service(NAME, shared_namespace))
    octavo.wait_ready(NAME, shared_namespace)
    for metric in ("vllm_num_requests_waiting", "vllm_kv_cache_usage_perc", "octavo_requests_running"):
        raw = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{shared_namespace}/pods/*/{metric}"
        items = json.loads(octavo.kubectl("get", "--raw", raw))["items"]
        assert {item["describedObject"]["name"] for item in items} == {
            pod["metadata"]["name"] for pod in octavo.replicas(NAME, shared_namespace)
        }
