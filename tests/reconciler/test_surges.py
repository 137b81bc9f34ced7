"""A GPU that one service was promised a moment ago is not free for the next."""

from __future__ import annotations

from octavo_operator.surges import PROMISE_S, Surges
from octavo_operator.work_queue import Key

A, B = Key("ns", "a"), Key("ns", "b")
GPU = "nvidia.com/gpu"


def test_a_promise_counts_for_others_until_the_pod_exists():
    surges = Surges()
    surges.promise(A, GPU, 2)
    assert (surges.promised(GPU, B), surges.promised(GPU, A), surges.promised("amd.com/gpu", B)) == (2, 0, 0)
    surges.settle(A)
    surges.settle(B)
    assert surges.promised(GPU, B) == 0


def test_a_promise_that_nothing_came_of_ends():
    """The API server refused the change, or a quota the pod."""
    now = [0.0]
    surges = Surges(clock=lambda: now[0])
    surges.promise(A, GPU, 1)
    now[0] = PROMISE_S - 1
    assert surges.promised(GPU, B) == 1
    now[0] = PROMISE_S + 1
    assert surges.promised(GPU, B) == 0
