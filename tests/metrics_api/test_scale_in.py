"""Which replica a scale-in should take, and when it is worth saying."""

from __future__ import annotations

import pytest

from octavo_operator.scale_in import candidate


@pytest.mark.parametrize(
    ("loads", "marked", "chosen"),
    [
        ({}, None, None),
        ({"a": 3}, None, None),  # there is no choice
        ({"a": 3, "b": 1}, None, "b"),
        ({"a": 0, "b": 0}, None, "a"),
        ({"a": 0, "b": 0}, "b", "b"),  # an idle service is left as it is
        ({"a": 1, "b": 0}, "a", "a"),  # one request is no reason
        ({"a": 5, "b": 4}, "a", "a"),
        ({"a": 20, "b": 4}, "a", "b"),
        ({"b": 4, "c": 2}, "a", "c"),  # the marked one is gone, or does not answer
    ],
)
def test_the_cheapest_replica_is_chosen_and_kept_until_another_is_clearly_cheaper(loads, marked, chosen):
    """A mark that moved with each request would be a write for each."""
    assert candidate(loads, marked) == chosen
