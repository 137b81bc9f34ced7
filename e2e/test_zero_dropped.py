"""No request is dropped and no replica restarts without need, whatever happens to replicas, nodes and the operator."""

from __future__ import annotations

import random
import time

import pytest

from e2e.world import ENGINE_IMAGE, SERVICE_LABEL, SYSTEM

pytestmark = pytest.mark.once
NAME = "chat"
EACH = 3500  # requests that each scenario sees, if the machine answers them in time
PATIENCE_S = 240
SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "ScheduleAnyway",
    "labelSelector": {"matchLabels": {SERVICE_LABEL: NAME}},
}


@pytest.fixture(scope="module")
def served(octavo, shared_namespace):
    """Two replicas that all tests of this file share."""
    spread = {"spec": {"topologySpreadConstraints": [SPREAD]}}
    octavo.apply(octavo.service(NAME, shared_namespace, replicas=2, podTemplate=spread))
    octavo.wait_ready(NAME, shared_namespace)
    return shared_namespace


def edit(world, namespace, **fields):
    """A change that every replica has to follow."""
    world.patch(NAME, namespace, {"engine": {"maxNumSeqs": random.randint(20, 10_000)}, **fields})


def ends_well(driver, record_property, requests=EACH):
    """Traffic goes on for a while; none of it has failed."""
    driver.wait_for(requests, PATIENCE_S)
    report = driver.stop()
    record_property("traffic", str(report))
    assert report.failures == []
    return report


@pytest.mark.short
def test_an_edit_reaches_all_replicas(octavo, served, traffic, record_property):
    """An edit replaces every replica under load, twice; connections that are kept alive reach the new ones"""
    with traffic(NAME, served) as driver:
        for _ in range(2):
            before = octavo.lives(NAME, served)
            edit(octavo, served)
            record_property("rolled out in", f"{octavo.wait_ready(NAME, served):.0f} s")
            assert not before.keys() & octavo.lives(NAME, served).keys()
        octavo.until(lambda: _all_asked(octavo, served), 120, "a new replica is asked nothing")
        report = ends_well(driver, record_property)
    kept = {kind: count for kind, count in report.connections.items() if kind.startswith("kept-alive")}
    for kind, connections in kept.items():
        assert 4 < connections < report.answered[kind] / 4, "kept alive, and moved on where it had to"


def _all_asked(world, namespace):
    return all(world.metric(pod, "vllm:request_success_total") > 0 for pod in world.replicas(NAME, namespace))


@pytest.mark.short
def test_replicas_that_go_finish_what_they_have(octavo, served, traffic, record_property):
    """Scale-out to three and scale-in to one under load"""
    with traffic(NAME, served) as driver:
        for replicas in (3, 1, 2):
            octavo.patch(NAME, served, {"replicas": replicas})
            octavo.wait_ready(NAME, served)
            octavo.until(lambda n=replicas: len(octavo.replicas(NAME, served)) == n, 120, "replicas stay")
            driver.wait_for(driver.answered + 300, 60)
        ends_well(driver, record_property)


def test_a_drained_node_takes_one_replica_at_a_time(octavo, served, traffic, record_property):
    """`kubectl drain` of a node under load waits for the PodDisruptionBudget"""
    nodes = octavo.cluster.nodes
    if len(nodes) < 2:
        pytest.skip("a drained node's replicas need another node to go to")
    before = octavo.lives(NAME, served)
    (drained,) = {pod["spec"]["nodeName"] for pod in octavo.replicas(NAME, served)} - {nodes[0]} or {nodes[1]}
    with traffic(NAME, served, node=nodes[0]) as driver:
        try:
            octavo.kubectl(
                "drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=400s", seconds=450
            )  # fmt: skip
            octavo.wait_ready(NAME, served)
            driver.wait_for(driver.answered + 300, 60)
        finally:
            octavo.kubectl("uncordon", drained)
        ends_well(driver, record_property)
    moved = before.keys() - octavo.lives(NAME, served).keys()
    record_property("replicas moved", len(moved))
    assert moved, "a replica was on it"


def test_the_operator_is_killed_at_random_moments(octavo, served, traffic, record_property):
    """The operator is killed six times, at random moments of edits; every edit is carried through"""
    seed = random.randrange(1 << 16)
    record_property("seed", seed)
    chance = random.Random(seed)
    with traffic(NAME, served) as driver:
        for _ in range(2):
            before = octavo.lives(NAME, served)
            edit(octavo, served)
            for _ in range(3):
                time.sleep(chance.uniform(0, 4))
                pod = chance.choice(octavo.list("pods", SYSTEM, "app.kubernetes.io/name=octavo-operator"))
                octavo.kubectl(
                    "-n", SYSTEM, "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", check=False
                )  # fmt: skip
            octavo.wait_operator()
            octavo.wait_ready(NAME, served)
            assert not before.keys() & octavo.lives(NAME, served).keys()
        after = octavo.lives(NAME, served)
        ends_well(driver, record_property)
    assert octavo.lives(NAME, served) == after
    assert set(after.values()) == {0}, "no engine restarted"


def test_an_upgrade_of_the_operator_touches_no_replica(octavo, served, install, traffic, record_property):
    """`helm upgrade` replaces the operator under load; every replica is the one that it was"""
    before = octavo.lives(NAME, served)
    operators = {pod["metadata"]["uid"] for pod in octavo.operator_pods()}
    with traffic(NAME, served) as driver:
        install("log.level=debug")
        assert not operators & {pod["metadata"]["uid"] for pod in octavo.operator_pods()}
        install()
        time.sleep(20)
        ends_well(driver, record_property)
    assert octavo.lives(NAME, served) == before


def test_an_upgrade_with_another_engine_image_moves_one_service_at_a_time(
    octavo, served, install, traffic, record_property
):
    """`helm upgrade` with another default engine image under load: every replica is replaced, no request is dropped"""
    if octavo.engine_image != ENGINE_IMAGE:
        pytest.skip("a given cluster's registry has the engine by one name only; docker.io/ is another for our own")
    octavo.apply(octavo.service("beside", served))
    octavo.wait_ready("beside", served)
    names = (NAME, "beside")
    before = {name: octavo.lives(name, served) for name in names}
    with traffic(NAME, served) as driver, traffic("beside", served, clients=4) as other:
        began = time.monotonic()
        install(f"engine.images.octavo=docker.io/{ENGINE_IMAGE}")  # the same bits by another name

        def states():
            return {name: octavo.condition(name, served, "UpToDate")["reason"] for name in names}

        def moved():
            now = states()
            assert list(now.values()).count("Upgrading") <= 1, "one at a time"
            return set(now.values()) == {"UpToDate"} and not any(
                before[name].keys() & octavo.lives(name, served).keys() for name in names
            )

        octavo.until(moved, 600, "all follow the new image")
        record_property("both services moved in", f"{time.monotonic() - began:.0f} s")
        ends_well(driver, record_property)
        install()  # and back, for the tests that follow
        octavo.until(lambda: all(_image(octavo, name, served) == ENGINE_IMAGE for name in names), 600, "back")
        octavo.until(lambda: set(states().values()) == {"UpToDate"}, 600, "all follow the former image")
        ends_well(other, record_property, 200)
    octavo.kubectl("-n", served, "delete", "llms", "beside", "--wait")


def _image(world, name, namespace):
    deployment = world.get("deployment", name, namespace)
    return deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_one_replica_is_replaced_without_a_gap(octavo, namespace, traffic, record_property):
    """A single replica with room for a surge: the new one first, and nothing is dropped"""
    octavo.apply(octavo.service("alone", namespace))
    octavo.wait_ready("alone", namespace)
    with traffic("alone", namespace) as driver:
        octavo.patch("alone", namespace, {"engine": {"maxNumSeqs": 17}})
        octavo.wait_ready("alone", namespace)
        ends_well(driver, record_property)
