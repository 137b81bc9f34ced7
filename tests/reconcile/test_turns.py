"""Changes of services with GPUs take turns where none is free; a GPU that one is about to take is not free for others."""

from __future__ import annotations

import pytest

from octavo_operator.api.names import NamespacedName
from octavo_operator.planner.plan import Hardware
from octavo_operator.reconcile.turns import PROMISE_S, Turns

A, B = NamespacedName("ns", "a"), NamespacedName("ns", "b")
GPU, AMD = "nvidia.com/gpu", "amd.com/gpu"


def gpus(count=1, *products, resource=GPU):
    return Hardware("nvidia", count, resource, products, "nvidia.com/gpu.product")


def test_gpus_are_promised_to_others_until_the_pod_exists():
    turns = Turns()
    turns.take(A, gpus(2), 1)
    assert (turns.promised(gpus(), B), turns.promised(gpus(), A), turns.promised(gpus(resource=AMD), B)) == (2, 0, 0)
    turns.keep(A, gpus(2), 900, placed=False)
    assert turns.promised(gpus(), B) == 2, "one that ends in place has not made way yet"
    turns.keep(A, gpus(2), 900, placed=True)
    assert turns.promised(gpus(), B) == 0
    assert turns.other(B, gpus()) == A, "it is under way all the same"


@pytest.mark.parametrize(
    ("one", "other", "met"),
    [
        (gpus(1, "L4"), gpus(1, "L4"), True),
        (gpus(1, "L4", "A10"), gpus(2, "A10"), True),
        (gpus(1), gpus(1, "L4"), True),
        (gpus(1, "L4"), gpus(1, "A10"), False),
        (gpus(1), gpus(1, resource=AMD), False),
    ],
)
def test_services_take_turns_where_a_gpu_would_do_for_both(one, other, met):
    turns = Turns()
    turns.take(A, one, 1)
    assert turns.other(B, other) == (A if met else None)
    assert turns.other(A, other) is None
    assert turns.promised(other, B) == (one.gpus if met else 0), "a GPU of another product is not taken from it"


def test_those_that_wait_are_looked_at_when_a_change_is_over():
    woken = []
    turns = Turns(woken.append)
    turns.take(A, gpus(1, "L4"), 1)
    turns.wait(B, gpus(1, "L4"))
    turns.wait(NamespacedName("ns", "c"), gpus(1, "A10"))
    assert woken == []
    turns.leave(A)
    assert woken == [B]
    turns.leave(A)
    assert woken == [B], "once"


def test_a_service_that_is_not_looked_at_again_holds_up_no_other_for_ever():
    """The API server refused its change, or the operator failed in the midst of the pass."""
    now = [0.0]
    turns = Turns(clock=lambda: now[0])
    turns.take(A, gpus(), 1)
    now[0] = PROMISE_S + 1
    assert (turns.other(B, gpus()), turns.promised(gpus(), B)) == (None, 0)
    turns.keep(A, gpus(), 900, placed=True)
    now[0] += 899
    assert turns.other(B, gpus()) == A
    now[0] += 2
    assert turns.other(B, gpus()) is None


def test_a_change_is_over_when_as_many_replicas_answer_as_before():
    """A replica in place exists at once, and loads its model for minutes."""
    turns = Turns()
    assert not turns.loads(A, 0, 1), "it has no turn"
    turns.take(A, gpus(), 2)
    turns.keep(A, gpus(), 900, placed=True)
    assert turns.loads(A, 1, 3)
    assert not turns.loads(A, 2, 3), "a third one was never there"
    assert not turns.loads(A, 1, 1), "fewer are desired by now"
