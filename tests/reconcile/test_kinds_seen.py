"""A pass lists the kinds that a service may have children of, and no child is overlooked for it."""

from __future__ import annotations

from octavo_testing.planner_cases import CPU, service

from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import CHILDREN
from octavo_operator.reconcile.kinds_seen import KindsSeen

KEY, OTHER = NamespacedName("n", "s"), NamespacedName("n", "other")
PLAIN = service(accelerator=CPU, monitoring={"serviceMonitor": "Disabled"})
CACHED = service(accelerator=CPU, cache={}, monitoring={"serviceMonitor": "Disabled"})


def kinds(seen, of=PLAIN, key=KEY):
    return {each.kind for each in seen.to_list(key, of)}


def test_at_first_everything_is_listed_and_then_what_may_be_there():
    seen = KindsSeen()
    assert kinds(seen) == {each.kind for each in CHILDREN} | {"ServiceMonitor"}
    seen.listed(KEY, seen.to_list(KEY, PLAIN))
    assert kinds(seen) == {"Deployment", "Service"}
    assert kinds(seen, CACHED) == {"Deployment", "Service", "PersistentVolumeClaim", "Job"}
    assert kinds(seen, None) == kinds(seen, key=OTHER) == {each.kind for each in CHILDREN} | {"ServiceMonitor"}


def test_a_service_that_was_never_looked_at_has_what_a_watch_has_shown():
    """A watch shows the children of a backup that was restored without its status."""
    seen = KindsSeen()
    seen.note(KEY, {"HorizontalPodAutoscaler"})
    assert {each.kind for each in seen.to_list(KEY, PLAIN, new=True)} == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
    }
    assert kinds(seen) == {"Deployment", "Service", "HorizontalPodAutoscaler"}
    seen.doubt()
    assert kinds(seen) >= {each.kind for each in CHILDREN}


def test_what_a_watch_or_a_list_has_shown_is_listed_from_then_on():
    """This includes what a watch shows before the first lists are complete."""
    seen = KindsSeen()
    seen.note(KEY, {"Job"})
    seen.listed(KEY, seen.to_list(KEY, PLAIN))
    assert kinds(seen) == {"Deployment", "Service", "Job"}
    seen.note(KEY, {"NetworkPolicy"})
    seen.listed(KEY, seen.to_list(KEY, PLAIN))
    assert kinds(seen) == {"Deployment", "Service", "Job", "NetworkPolicy"}


def test_a_resync_lists_everything_once_more():
    """An event that was lost is not lost for good."""
    seen = KindsSeen()
    seen.listed(KEY, seen.to_list(KEY, PLAIN))
    part = seen.to_list(KEY, PLAIN)
    seen.doubt()
    seen.listed(KEY, part)
    assert kinds(seen) >= {each.kind for each in CHILDREN}, "a pass that began before does not count"
    seen.listed(KEY, seen.to_list(KEY, PLAIN))
    assert kinds(seen) == {"Deployment", "Service"}
    seen.forget(KEY)
    assert kinds(seen) >= {each.kind for each in CHILDREN}


def test_service_monitors_are_listed_where_they_are_known():
    known = False
    seen = KindsSeen(lambda: known)
    asked = service(accelerator=CPU)
    assert "ServiceMonitor" not in kinds(seen, asked)
    seen.listed(KEY, seen.to_list(KEY, asked))
    known = True
    assert kinds(seen, asked) == {"Deployment", "Service", "ServiceMonitor"}
