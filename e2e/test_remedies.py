"""An obstacle is named with its remedy, and the remedy takes effect at once."""

from __future__ import annotations

import time

QUESTION = {"prompt": "The capital of France is", "max_tokens": 1}
FIX_S = 45  # less than the minute that a surge has before the old replica makes way


def free_cpu(world):
    """The CPU that the first node has left, in thousandths, by its pods' requests."""
    node = world.cluster.nodes[0]
    allocatable = _thousandths(world.get("node", node)["status"]["allocatable"]["cpu"])
    pods = [pod for pod in world.list("pods") if pod["spec"].get("nodeName") == node]
    return allocatable - sum(
        _thousandths(container.get("resources", {}).get("requests", {}).get("cpu", "0"))
        for pod in pods
        if pod["status"]["phase"] not in {"Succeeded", "Failed"}
        for container in pod["spec"]["containers"]
    )


def _thousandths(cpu):
    return int(cpu.removesuffix("m")) if cpu.endswith("m") else int(float(cpu) * 1000)


def on_first_node(world):
    return {"spec": {"nodeSelector": {"kubernetes.io/hostname": world.cluster.nodes[0]}}}


def test_a_replica_that_no_node_takes(octavo, namespace, record_property):
    """A request that no node can meet: the condition names what is requested, what is free, and the field to lower"""
    requests = {"requests": {"cpu": "64", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
    octavo.apply(octavo.service("large", namespace, resources=requests))
    octavo.until(
        lambda: octavo.condition("large", namespace).get("reason") == "Unschedulable",
        60,
        lambda: octavo.state_of(namespace),
    )
    said = octavo.condition("large", namespace)["message"]
    record_property("said", said)
    for part in ("requests cpu 64", "the freest node has cpu", "lower resources.requests.cpu"):
        assert part in said
    requests["requests"]["cpu"] = "100m"
    octavo.patch("large", namespace, {"resources": requests})
    record_property("ready after the fix", f"{octavo.wait_ready('large', namespace):.0f} s")


def test_a_replica_that_does_not_serve_makes_way_at_once(octavo, namespace, record_property):
    """A crash-looping replica holds the node's last CPU: the corrected one takes its place at once"""
    cpu = free_cpu(octavo) * 2 // 3  # two have no place
    resources = {"requests": {"cpu": f"{cpu}m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
    spec = {"resources": resources, "podTemplate": on_first_node(octavo)}
    octavo.apply(octavo.service("typo", namespace, **spec, engine={"args": ["--no-such-flag"]}))
    octavo.until(
        lambda: "--no-such-flag" in octavo.condition("typo", namespace).get("message", ""),
        180,
        lambda: octavo.state_of(namespace),
    )
    record_property("said", octavo.condition("typo", namespace)["message"][:120])
    (broken,) = octavo.lives("typo", namespace)
    octavo.patch("typo", namespace, {"engine": {"args": ["--threads", "1"]}})
    began = time.monotonic()

    def has_taken_its_place():
        pods = octavo.replicas("typo", namespace)
        return any(pod["metadata"]["uid"] != broken and pod["spec"].get("nodeName") for pod in pods)

    octavo.until(has_taken_its_place, FIX_S, lambda: octavo.state_of(namespace), every=0.5)
    record_property("scheduled after", f"{time.monotonic() - began:.0f} s")
    octavo.wait_ready("typo", namespace)
    record_property("ready after", f"{time.monotonic() - began:.0f} s")


def test_a_key_that_is_rotated(octavo, namespace, record_property):
    """A changed Secret of API keys is followed without a restart: the new key is let in, the old one no more"""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": namespace}}
    octavo.apply({**secret, "stringData": {"api-keys": "old"}})
    octavo.apply(octavo.service("closed", namespace, auth={"apiKeys": {"secretName": "keys"}}))
    octavo.wait_ready("closed", namespace)
    before = octavo.lives("closed", namespace)

    def status(key):
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{octavo.url('closed', namespace)}/v1/completions"
        return octavo.ask(url, {**QUESTION, "model": "closed"}, headers)[0]

    assert (status("old"), status("new")) == (200, 401)
    octavo.apply({**secret, "stringData": {"api-keys": "new"}})
    took = octavo.until(lambda: status("new") == 200, 180, "the new key is refused", every=3)
    record_property("followed after", f"{took:.0f} s")
    assert status("old") == 401
    assert octavo.lives("closed", namespace) == before
