"""One service: whether its pod template follows, stays or goes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from upgrade_cases import CRASHES, LOADS, NEW, OLD, SERVES, at, case, rendering

from octavo_operator.reconcile.diagnosis.pods import Trouble
from octavo_operator.reconcile.upgrades.rendering import Attempt, Move, Record
from octavo_operator.reconcile.upgrades.replicas import Replicas, replicas_of
from octavo_operator.reconcile.upgrades.step import approval_for, moved, refused, step

PENDING = Replicas(desired=1, ready=0, under_way=False)
STOPPED = Replicas(desired=0, ready=0, under_way=False)
ROLLS = Replicas(desired=2, ready=2, under_way=True)
FAILED = Attempt(NEW, "1", "", served=False, at=at(1), why="it crashed")
MOVING = Record(rendering(NEW), Move(rendering(), 1, at(0)))


@pytest.mark.parametrize(
    ("phase", "given"),
    [
        ("Waiting", {}),
        ("Current", {"fresh": rendering()}),
        ("Waiting", {"fresh": rendering(labels="of a newer operator")}),  # the image is the same
        ("Waiting", {"fresh": rendering(NEW, variant=None, env="new"), "record": Record(rendering(variant=None))}),
        # Nothing is lost: it does not run, or it never served and does not load.
        ("Taken", {"replicas": STOPPED}),
        ("Taken", {"replicas": CRASHES}),
        ("Taken", {"replicas": PENDING, "served": False}),
        # But what loads is left to load, and what served is waited for: its node may come back.
        ("Busy", {"replicas": LOADS, "served": False}),
        ("Busy", {"replicas": PENDING}),
        ("Busy", {"replicas": ROLLS}),  # a person's edit is on its way
        # The person decides.
        ("Offered", {"manual": True}),
        ("Offered", {"manual": True, "replicas": STOPPED}),
        ("Offered", {"manual": True, "approval": OLD}),
        ("Waiting", {"manual": True, "approval": NEW}),
        # It failed, and only a person can know that the next try may end otherwise.
        ("PassedOver", {"record": Record(rendering(), None, FAILED)}),
        ("PassedOver", {"record": Record(rendering(), None, FAILED), "replicas": CRASHES}),
        ("Waiting", {"record": Record(rendering(), None, FAILED), "approval": NEW}),
        ("Waiting", {"record": Record(rendering(), None, replace(FAILED, asked="0"))}),
        ("Waiting", {"record": Record(rendering(), None, replace(FAILED, release=OLD))}),
        # An edit goes through at once, whatever waits.
        ("Edited", {"fresh": rendering(NEW, "2")}),
        ("Edited", {"fresh": rendering(NEW, "2"), "manual": True}),
        ("Edited", {"fresh": rendering(NEW, "2", labels="edited"), "record": MOVING, "replicas": LOADS}),
        # A move.
        ("Moving", {"record": MOVING, "replicas": LOADS}),
        ("Served", {"record": MOVING}),
        ("PutBack", {"record": MOVING, "replicas": CRASHES}),
        ("Moving", {"record": replace(MOVING, move=Move(rendering(), 2, at(0))), "replicas": replace(SERVES, desired=2)}),
        ("Served", {"record": replace(MOVING, move=Move(rendering(), 2, at(0)))}),  # scaled in meanwhile
        ("Served", {"record": MOVING, "replicas": replace(SERVES, desired=3)}),  # the others find no GPU, as before
        ("Moving", {"record": MOVING, "replicas": replace(SERVES, refused="exceeded quota", under_way=True)}),
        ("PutBack", {"record": MOVING, "replicas": replace(LOADS, refused="violates PodSecurity")}),
        ("Moving", {"record": MOVING, "replicas": LOADS, "fresh": rendering(NEW, "2")}),  # an edit of something else
        ("Current", {"record": MOVING, "replicas": STOPPED}),
    ],
)  # fmt: skip
def test_a_turn(phase, given):
    assert step(case(**given)).phase == phase


def test_an_edit_keeps_the_image_that_is_pinned_and_takes_it_back_from_a_move():
    edited = rendering(NEW, "2", labels="edited")
    for record in (Record(rendering()), MOVING):
        taken = step(case(record, edited, LOADS))
        assert (taken.phase, taken.record.current.pin, taken.record.move) == ("Edited", rendering().pin, None)
        assert taken.renders


@pytest.mark.parametrize(
    "given",
    [
        {"fresh": rendering(NEW, "2", variant=None)},  # it names an image
        {"fresh": rendering(NEW, "2"), "record": Record(rendering(variant=None))},  # it names none any more
        {"fresh": rendering(NEW, "2"), "record": Record(rendering(variant="octavo"))},  # another accelerator
        {"fresh": rendering(NEW, "2"), "replicas": STOPPED},
        {"fresh": rendering(NEW, "2"), "replicas": CRASHES},
    ],
)
def test_an_edit_takes_todays_image_where_the_pin_does_not_apply(given):
    taken = step(case(**given))
    assert (taken.phase, taken.record.current.pin) == ("Edited", given["fresh"].pin)


def test_a_person_who_decides_keeps_the_pin_even_of_what_does_not_run():
    taken = step(case(fresh=rendering(NEW, "2"), replicas=STOPPED, manual=True))
    assert taken.record.current.pin == rendering().pin


def test_a_move_ends_where_it_began_if_it_does_not_serve():
    begun = moved(case())
    assert begun.record == Record(rendering(NEW), Move(rendering(), 1, at(0)))
    back = step(case(begun.record, replicas=CRASHES))
    assert back.record.current == rendering()
    assert back.record.attempt == replace(FAILED, at=at(0), why=CRASHES.stuck, image="octavo/engine:0.2.0")
    assert step(case(back.record)).phase == "PassedOver"


def test_a_template_that_the_api_server_refuses_counts_as_one_that_does_not_serve():
    taken = refused(case(), "denied by policy")
    assert taken.record.current == rendering()
    assert step(case(taken.record)).phase == "PassedOver"


def test_a_second_release_during_a_move_waits_for_its_end():
    world = case(MOVING, rendering("0.3.0-cccccc"), LOADS)
    assert step(world).record == MOVING
    assert step(replace(world, replicas=SERVES)).record.current.release == NEW


def test_each_failure_is_asked_for_again_by_another_value():
    assert approval_for(case()) == NEW
    tried = Record(rendering(), None, replace(FAILED, approval=NEW))
    assert approval_for(case(tried)) == f"{NEW}.2"
    assert step(case(tried, approval=NEW, manual=True)).phase == "PassedOver"
    assert step(case(tried, approval=f"{NEW}.2", manual=True)).phase == "Waiting"
    tried = Record(rendering(), None, replace(FAILED, approval=f"{NEW}.2"))
    assert approval_for(case(tried)) == f"{NEW}.3"


def test_a_pod_that_has_ended_decides_nothing():
    """Evicted, or not admitted by its node: another one takes its place."""
    deployment = {"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1}}
    metadata = {"creationTimestamp": at(5)}
    ended = {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": "Failed", "reason": "Evicted"}}
    crashed = Trouble("EngineCrashed", "it crashed", stuck=True, rank=4)
    evicted = Trouble("Evicted", "a pod failed", stuck=False, rank=6)
    for trouble in (crashed, evicted):
        found = replicas_of(deployment, [ended], lambda _, trouble=trouble: trouble, at(0))
        assert (found.stuck, found.loading) == ("", False)
    alive = {**ended, "status": {"phase": "Running"}}
    assert replicas_of(deployment, [alive], lambda _: evicted, at(0)).loading
