"""Settings of property tests: how many examples each tries, and what share of them has to be accepted.

A property of any input that only demands "no other exception" passes where every example is refused at the door:
`accepting` counts. `OCTAVO_DEEP_TESTS=1` (`make test-deep`) tries twenty times as many.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from hypothesis import HealthCheck, settings

from octavo_testing.deep import DEEP

SLOW_OR_SHARED = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)


def tried(examples: int) -> settings:
    """Make the settings of a property that is tried with so many examples; a failure prints what reproduces it."""
    count = examples * (20 if DEEP else 1)
    return settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=SLOW_OR_SHARED)


def accepting(share: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a property, above `given`, that returns whether it accepted an example: `share` of all at least has to be."""

    def decorate(test: Any) -> Callable[..., None]:
        example = test.hypothesis.inner_test
        outcomes: list[bool] = []

        @wraps(example)
        def counted(*args: Any, **kwargs: Any) -> None:
            outcomes.append(bool(example(*args, **kwargs)))

        test.hypothesis.inner_test = counted

        @wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            outcomes.clear()
            test(*args, **kwargs)
            assert sum(outcomes) >= share * len(outcomes), f"{sum(outcomes)} of {len(outcomes)} examples were accepted"

        return run

    return decorate
