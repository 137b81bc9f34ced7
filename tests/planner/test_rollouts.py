"""Changes reach replicas on scarce GPUs: whole rollouts, walked tick by tick, none of which may deadlock."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import CPU, on_a100, planned
from simulated_rollout import LOAD_TICKS, TICK_S, Simulation

from octavo_operator.api.observed import Change, Observed
from octavo_operator.planner.rollout import NODE_S, PATIENCE_S

WAITS, GIVES_UP = PATIENCE_S - 1.0, PATIENCE_S + 1.0
LONG_LOAD = 3 * PATIENCE_S // TICK_S  # ticks: longer than any patience


@pytest.mark.parametrize("load_ticks", [LOAD_TICKS, LONG_LOAD])
@pytest.mark.parametrize(
    ("nodes", "replicas", "gpus", "least_ready"),
    [
        ([2], 1, 1, 1),  # a free GPU: the new one first
        ([1], 1, 1, 0),  # none: the outage that the status states beforehand
        ([2], 2, 1, 1),  # two GPUs, both taken: one after the other
        ([3], 2, 1, 2),
        ([1, 1], 2, 1, 1),
        ([2, 2], 3, 1, 3),
        ([4], 1, 4, 0),
        ([4, 4], 1, 4, 1),
        ([2, 2], 1, 4, 0),  # nowhere at all: it never ran, and never will
        ([2], 3, 1, 1),  # more desired than GPUs: a replica that waits for a GPU holds up no change
        ([1], 3, 1, 0),
        ([1], 1, 0, 0),  # a CPU that is full: the surge gives up after a while
        ([2], 1, 0, 1),
    ],
)
def test_every_edit_goes_through(nodes, replicas, gpus, least_ready, load_ticks):
    """On so many GPUs, with so many replicas: all that have a node follow the edit, and as few as possible are away."""
    world = Simulation(nodes, replicas=replicas, gpus=gpus, load_ticks=load_ticks)
    world.deploy()
    runs = world.ready
    world.least_ready = runs
    world.edit()
    assert world.walk(ticks=500) < 500, world.plan
    assert {pod["revision"] for pod in world.pods} == {1}
    assert world.ready == runs
    assert world.least_ready == min(least_ready, runs)


@pytest.mark.parametrize(("nodes", "replicas", "serving"), [([2], 3, 2), ([4], 6, 4), ([2, 2], 6, 4), ([8], 10, 8)])
def test_with_more_replicas_than_gpus_one_old_one_at_a_time_makes_way(nodes, replicas, serving):
    """An autoscaler at its maximum, a node that was lost: a model that loads for longer than every patience is no
    reason to end the next one."""
    world = Simulation(nodes, replicas=replicas, load_ticks=LONG_LOAD)
    world.deploy()
    world.least_ready = world.ready
    world.edit()
    assert world.walk(ticks=2000) < 2000, world.plan
    assert {pod["revision"] for pod in world.pods} == {1}
    assert (world.ready, world.least_ready) == (serving, serving - 1)


def test_a_surge_is_not_given_up_because_it_has_taken_the_gpu_that_was_free():
    """A change of course would end the only replica while the new one still loads."""
    world = Simulation([2], replicas=1)
    world.deploy()
    world.edit()
    world.step()
    assert world.plan.strategy == "Surge"
    world.step()
    assert len(world.pods) == 2
    assert (world.plan.strategy, world.plan.reason) == ("Surge", "a change that is under way ends as it began")
    world.walk()
    assert world.least_ready == 1


def test_a_gpu_that_is_taken_after_the_choice_is_waited_for_and_then_the_old_one_makes_way():
    """The status says so before it happens."""
    world = Simulation([2], replicas=1)
    world.deploy()
    world.edit()
    world.occupy(0, 1)
    world.step()
    world.step()
    assert world.plan.waits
    assert world.ready == 1
    ticks = world.walk()
    assert PATIENCE_S / TICK_S < ticks < 60
    assert (world.ready, world.least_ready) == (1, 0)


def test_a_gpu_that_comes_free_in_time_spares_the_outage():
    world = Simulation([2], replicas=1)
    world.deploy()
    world.edit()
    world.occupy(0, 1)
    for _ in range(6):
        world.step()
    world.leave()
    world.walk()
    assert (world.ready, world.least_ready) == (1, 1)


def test_an_edit_during_the_last_ones_drain_waits_for_its_gpu():
    """A replica that drains has a GPU that will be free; ending the other one would be an outage for nothing."""
    world = Simulation([2], replicas=1)
    world.deploy()
    world.edit()
    for _ in range(LOAD_TICKS + 2):
        world.step()
    assert any("deletionTimestamp" in pod["metadata"] for pod in world.pods)
    world.edit()
    world.walk()
    assert (world.ready, world.least_ready) == (1, 1)


def test_an_edit_that_no_node_could_take_leaves_what_serves():
    """A wrong edit is no reason for an outage."""
    world = Simulation([2, 2], replicas=2)
    world.deploy()
    world.edit(gpus=4)
    world.walk(ticks=60)
    assert world.ready >= 1
    world.edit(gpus=1)
    world.walk()
    assert world.ready == 2


def test_a_change_to_more_gpus_takes_them_from_all_old_replicas():
    """Two replicas of a GPU each, one of two GPUs: no single one that makes way would do."""
    world = Simulation([2], replicas=2)
    world.deploy()
    world.edit(gpus=2)
    world.walk()
    assert world.ready == 1, "the second one waits for GPUs, as the status says"
    assert {pod["revision"] for pod in world.pods} == {1}


def test_a_surge_that_was_asked_for_waits_as_long_as_it_takes():
    world = Simulation([1], replicas=1, strategy="Surge")
    world.deploy()
    world.edit()
    world.walk(ticks=60)
    assert (world.ready, world.least_ready) == (1, 1)
    assert world.plan.reason == "rollout.strategy: Surge waits for a node with capacity"


@pytest.mark.parametrize(
    ("spec", "change", "expected"),
    [
        ({}, Change(surges=True), ("Surge", 1, 0, False)),
        ({}, Change(surges=False), ("InPlace", 0, 1, False)),
        ({}, Change(True, 0, WAITS, old_makes_way=True), ("Surge", 1, 0, True)),
        ({}, Change(True, 0, GIVES_UP, old_makes_way=True), ("InPlace", 0, 1, False)),
        ({}, Change(True, 0, GIVES_UP, old_makes_way=False), ("Surge", 1, 0, False)),
        ({}, Change(True, 0, GIVES_UP, old_makes_way=False, contender="n/x"), ("Surge", 1, 0, False)),
        ({}, Change(True, 0, GIVES_UP, old_makes_way=True, node_comes=True), ("Surge", 1, 0, True)),
        ({}, Change(True, 0, NODE_S + 1.0, old_makes_way=True, node_comes=True), ("InPlace", 0, 1, False)),
        (
            {"rollout": {"strategy": "InPlace"}},
            Change(True, 0, 1.0, old_makes_way=False, contender="n/x"),
            ("InPlace", 0, 1, False),
        ),
        ({}, Change(True, 0, GIVES_UP, old_makes_way=None), ("Surge", 1, 0, False)),
        ({}, Change(True, 1, 0.0, old_makes_way=True, old_serves=False), ("InPlace", 0, 2, False)),
        ({}, Change(False, 1, WAITS, old_makes_way=True), ("InPlace", 0, 1, True)),
        ({}, Change(False, 1, GIVES_UP, old_makes_way=True), ("InPlace", 0, 2, False)),
        ({"rollout": {"strategy": "InPlace"}}, Change(surges=True), ("InPlace", 0, 1, False)),
        ({"rollout": {"strategy": "Surge"}}, Change(surges=False), ("Surge", 1, 0, False)),
        ({"rollout": {"strategy": "Surge"}}, Change(True, 0, GIVES_UP, old_makes_way=True), ("Surge", 1, 0, False)),
    ],
)
def test_a_change_under_way(spec, change, expected):
    """A change goes on as it began, until it can't."""
    rollout = planned(None, {"free_gpus": 0, "change": change}, **on_a100(1), replicas=2, **spec).rollout
    assert (rollout.strategy, rollout.max_surge, rollout.max_unavailable, rollout.waits) == expected
    assert rollout.reason


@pytest.mark.parametrize(("replicas", "outage"), [(1, True), (2, False)])
def test_that_an_old_replica_will_make_way_is_said_beforehand(replicas, outage):
    """The plan warns of it: the warning stands in the status, and is posted as an Event."""
    change = Change(True, 0, 1.0, old_makes_way=True)
    (warning,) = [w for w in _warnings({"change": change}, replicas) if "makes way" in w]
    assert warning.startswith("no node has capacity for a new replica: if none has within 60 s, an old one makes way")
    assert ("an outage until the new one has loaded" in warning) == outage


def test_a_node_that_an_autoscaler_adds_is_worth_its_own_patience():
    """Such a node takes minutes to come, and a replica that serves would have ended for nothing."""
    change = Change(True, 0, 1.0, old_makes_way=True, node_comes=True)
    (warning,) = [w for w in _warnings({"change": change}, 1) if "makes way" in w]
    assert "if none has within 900 s" in warning


def test_that_a_change_will_be_an_outage_is_said_before_anything_changes():
    (warning,) = [w for w in _warnings({"free_gpus": 0}, 1) if w.startswith("one replica")]
    assert "so is each change" in warning
    assert not [w for w in _warnings({"free_gpus": 1}, 1) if "so is each change" in w]


def _warnings(observed, replicas):
    return planned(None, observed, **on_a100(1), replicas=replicas).warnings


def test_a_cpu_service_is_not_asked_about_gpus():
    assert planned(None, {"free_gpus": None}, accelerator=CPU).rollout.strategy == "Surge"
    assert Observed().change is None
