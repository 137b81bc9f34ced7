"""Scarce GPUs: what is chosen, what is reported beforehand, and that every edit goes through."""

from __future__ import annotations

import pytest

PRODUCT = "NVIDIA-A100-SXM4-40GB"


@pytest.fixture
def gpus(octavo):
    """Two pretended GPUs on one node, none elsewhere."""
    first, *others = octavo.cluster.nodes
    for node in others:
        octavo.cluster.set_gpus(node, 0)
    octavo.cluster.set_gpus(first, 2, PRODUCT)
    yield first
    octavo.kubectl("uncordon", first)
    octavo.cluster.set_gpus(first, 0)


def on_gpus(world, name, namespace, **spec):
    """A service of one GPU a replica. Its engine runs on the CPU, for the GPU is pretended: the scheduling is what is real.

    The operator would give it the image for GPUs, whose engine exits where there is none.
    """
    repository, _, tag = world.engine_image.rpartition(":")
    image = {"repository": repository, "tag": tag, "pullPolicy": world.cluster.pull_policy}
    args = ["--threads", "1", "--executor", "native", "--device", "cpu"]
    memory = {"gpuMemoryUtilization": 0.5, "swapSpace": "0Gi"}  # of the container, in place of the GPU
    engine = {"image": image, "args": args, **memory, **spec.pop("engine", {})}
    accelerator = {"products": [PRODUCT]}
    return world.service(name, namespace, accelerator=accelerator, sharedMemory="64Mi", engine=engine, **spec)


def rollout_of(world, name, namespace):
    return world.get("llms", name, namespace)["status"]["plan"]


def test_a_free_gpu_is_used_for_a_surge(octavo, gpus, namespace, traffic, record_property):
    """One of two GPUs is free: the new replica starts on it before the old one ends, and nothing is dropped"""
    octavo.apply(on_gpus(octavo, "one", namespace))
    octavo.wait_ready("one", namespace)
    plan = rollout_of(octavo, "one", namespace)
    assert (plan["rollout"], plan["rolloutReason"]) == ("Surge", "a GPU for a surge is free")
    with traffic("one", namespace) as driver:
        octavo.patch("one", namespace, {"engine": {"maxNumSeqs": 17}})
        octavo.wait_ready("one", namespace)
        report = driver.stop()
    record_property("traffic", str(report))
    assert report.failures == []


def test_two_gpus_both_taken_and_an_edit_goes_through(octavo, gpus, namespace, traffic, record_property):
    """Two replicas on two GPUs: one makes way for its successor, then the other; one always answers"""
    octavo.apply(on_gpus(octavo, "both", namespace, replicas=2))
    octavo.wait_ready("both", namespace)
    plan = rollout_of(octavo, "both", namespace)
    assert (plan["rollout"], plan["rolloutReason"]) == ("InPlace", "no free GPUs for a surge: it needs a GPU")
    before = octavo.lives("both", namespace)
    with traffic("both", namespace) as driver:
        octavo.patch("both", namespace, {"engine": {"maxNumSeqs": 17}})
        record_property("rolled out in", f"{octavo.wait_ready('both', namespace, 400):.0f} s")
        report = driver.stop()
    record_property("traffic", str(report))
    assert report.failures == []
    assert not before.keys() & octavo.lives("both", namespace).keys()


def test_an_outage_is_stated_before_it_happens(octavo, gpus, namespace, record_property):
    """One replica and no free GPU: the status warns of the outage beforehand, the edit goes through anyway"""
    octavo.cluster.set_gpus(gpus, 1, PRODUCT)
    octavo.apply(on_gpus(octavo, "only", namespace))
    octavo.wait_ready("only", namespace)
    (warning,) = [each for each in rollout_of(octavo, "only", namespace)["warnings"] if each.startswith("one replica")]
    assert "so is each change" in warning
    record_property("warned", warning)
    events = octavo.kubectl("-n", namespace, "get", "events", "--field-selector=reason=PlanWarning")
    assert "so is each change" in events
    octavo.patch("only", namespace, {"engine": {"maxNumSeqs": 17}})
    octavo.until(
        lambda: octavo.condition("only", namespace)["status"] == "False",
        60,
        lambda: octavo.state_of(namespace),
        every=0.3,
    )
    record_property("reported meanwhile", octavo.condition("only", namespace)["message"][:100])
    octavo.wait_ready("only", namespace)


def test_a_gpu_that_is_taken_meanwhile_is_no_deadlock(octavo, gpus, namespace, record_property):
    """A surge whose GPU another pod has taken waits, says so, and then has the old replica make way"""
    octavo.apply(on_gpus(octavo, "late", namespace))
    octavo.wait_ready("late", namespace)
    assert rollout_of(octavo, "late", namespace)["rollout"] == "Surge"
    # The edit is made while the GPU is free, and the GPU is taken when the scheduler looks.
    octavo.kubectl("cordon", gpus)
    octavo.patch("late", namespace, {"engine": {"maxNumSeqs": 17}, "rollout": {"strategy": "Surge"}})
    octavo.until(lambda: len(octavo.replicas("late", namespace)) == 2, 60, "the surge does not begin")
    octavo.cluster.set_gpus(gpus, 1, PRODUCT)
    octavo.kubectl("uncordon", gpus)
    octavo.patch("late", namespace, {"rollout": {"strategy": "Auto"}})
    octavo.until(
        lambda: any("makes way" in each for each in rollout_of(octavo, "late", namespace)["warnings"]),
        60,
        lambda: octavo.state_of(namespace),
    )
    assert octavo.condition("late", namespace)["status"] == "True", "it still answers"
    record_property("done after", f"{octavo.wait_ready('late', namespace, 400):.0f} s")


def test_a_replica_without_a_gpu_waits_and_says_so(octavo, gpus, namespace, record_property):
    """Three replicas and two GPUs: the third waits for a GPU, as the status says, and an edit still goes through"""
    octavo.apply(on_gpus(octavo, "three", namespace, replicas=3))
    octavo.until(
        lambda: octavo.get("llms", "three", namespace).get("status", {}).get("readiness") == "2/3",
        300,
        lambda: octavo.state_of(namespace),
    )
    said = octavo.condition("three", namespace)
    assert said["reason"] == "NoFreeGpu"
    record_property("reported", said["message"])
    before = octavo.lives("three", namespace)
    octavo.patch("three", namespace, {"engine": {"maxNumSeqs": 17}})
    octavo.until(
        lambda: (
            not before.keys() & octavo.lives("three", namespace).keys()
            and octavo.get("llms", "three", namespace)["status"]["readiness"] == "2/3"
        ),
        500,
        lambda: octavo.state_of(namespace),
    )
