"""Whole campaigns, walked pass by pass: what an upgrade of the operator does to all services."""

from __future__ import annotations

from dataclasses import replace

import pytest
from upgrade_cases import NEW, OLD, World

from octavo_operator.api.names import NamespacedName
from octavo_operator.reconcile.upgrades.campaign import Campaign, Member
from octavo_operator.reconcile.upgrades.rendering import Attempt


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_all_services_move_and_never_more_than_the_limit_at_once(limit):
    world = World("abcdefg", limit=limit)
    world.restart(NEW)
    world.walk()
    assert set(world.versions().values()) == {"0.2.0"}
    assert world.most == limit
    assert all(record.move is None for record in world.records.values())


def test_a_limit_of_none_moves_none():
    world = World("abc", limit=0)
    world.restart(NEW)
    world.walk()
    assert set(world.versions().values()) == {"0.1.0"}


def test_a_service_that_does_not_serve_goes_back_and_is_passed_over():
    world = World("abcd", broken="b")
    world.restart(NEW)
    world.walk()
    assert world.versions() == {"a": "0.2.0", "b": "0.1.0", "c": "0.2.0", "d": "0.2.0"}
    assert world.moves == ["a", "b", "c", "d"]  # b once
    assert world.most == 1


def test_three_in_a_row_stop_the_campaign():
    world = World("abcdef", broken="bcd")
    world.restart(NEW)
    world.walk()
    assert world.versions() == {"a": "0.2.0"} | dict.fromkeys("bcdef", "0.1.0")
    assert [key.name for key in world.campaign.stopped(world.members)] == ["b", "c", "d"]


def test_two_and_two_do_not():
    world = World("abcdef", broken="abde")
    world.restart(NEW)
    world.walk()
    assert world.versions() == {"c": "0.2.0", "f": "0.2.0"} | dict.fromkeys("abde", "0.1.0")


def test_a_stopped_campaign_stays_stopped_for_an_operator_that_starts_again():
    world = World("abcd", broken="abc")
    world.restart(NEW)
    world.walk()
    world.restart(NEW)
    world.walk()
    assert world.moves == ["a", "b", "c"]


def test_a_stopped_campaign_goes_on_once_a_service_that_was_edited_serves():
    """The edit asks for it again; what waits goes on only when it is seen to serve."""
    world = World("abcdef", broken="abc")
    world.restart(NEW)
    world.walk()
    world.broken = "a"
    world.asked[NamespacedName("n", "b")] = "2"
    world.walk(4)
    assert world.moves == ["a", "b", "c", "b"]
    world.walk()
    assert world.versions() == dict.fromkeys("bdef", "0.2.0") | dict.fromkeys("ac", "0.1.0")


def test_a_stopped_campaign_stays_stopped_while_what_was_edited_fails_again():
    world = World("abcdef", broken="abc")
    world.restart(NEW)
    world.walk()
    world.asked[NamespacedName("n", "b")] = "2"
    world.walk()
    assert world.moves == ["a", "b", "c", "b"]
    assert set(world.versions().values()) == {"0.1.0"}


def test_the_next_release_starts_with_a_clean_slate():
    world = World("abcd", broken="abcd")
    world.restart(NEW)
    world.walk()
    world.restart("0.3.0-cccccc")
    world.walk()
    assert set(world.versions().values()) == {"0.3.0"}
    assert world.most == 1


def test_an_operator_that_goes_back_takes_the_services_back_one_by_one():
    world = World("abcd")
    world.restart(NEW)
    world.walk()
    world.restart(OLD)
    world.most = 0
    world.walk()
    assert set(world.versions().values()) == {"0.1.0"}
    assert world.most == 1


@pytest.mark.parametrize("tick", range(1, 12))
def test_an_operator_may_be_killed_anywhere(tick):
    """Nothing is kept in memory: what moves is read from the Deployments."""
    world = World("abc", broken="b")
    world.restart(NEW)
    world.walk(tick)
    world.restart(NEW)
    world.walk()
    assert world.versions() == {"a": "0.2.0", "b": "0.1.0", "c": "0.2.0"}
    assert world.moves == ["a", "b", "c"]
    assert world.most == 1


def test_what_a_person_asks_for_comes_first_and_the_rest_by_name():
    members = {NamespacedName("n", name): Member(waits=True) for name in "abc"}
    members[NamespacedName("n", "c")] = replace(members[NamespacedName("n", "c")], asked_for=True)
    assert Campaign(NEW, 2).next(members) == (NamespacedName("n", "c"), NamespacedName("n", "a"))
    members[NamespacedName("m", "z")] = Member(moving=True)
    assert Campaign(NEW, 2).next(members) == (NamespacedName("n", "c"),)
    assert Campaign(NEW, 1).next(members) == ()


def test_only_failures_of_this_release_that_are_the_last_count():
    def failed(second, release=NEW, served=False):
        return Member(attempt=Attempt(release, "1", "", served, f"2026-01-01T00:00:0{second}Z"))

    keys = [NamespacedName("n", name) for name in "abcd"]
    row = dict(zip(keys, [failed(1), failed(2), failed(3), Member()], strict=True))
    campaign = Campaign(NEW, 1)
    assert campaign.stopped(row) == tuple(keys[:3])
    assert campaign.stopped(row | {keys[3]: failed(4, served=True)}) == ()
    assert campaign.stopped(row | {keys[0]: failed(1, release=OLD)}) == ()
    assert campaign.stopped(row | {keys[3]: failed(0, served=True)}) == tuple(keys[:3])
